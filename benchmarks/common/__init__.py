"""What the contests share: settings, stored results, teachers."""
