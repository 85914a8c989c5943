"""Files of data: tables, folders, sounds."""
