"""The pages of tasks: their output is pasted by a script, fits a terminal, and is there after every command."""

from __future__ import annotations

import importlib.util
import random
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "tasks").glob("*.md"))


def module(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def script():
    return module(ROOT / "docs" / "paste_output.py")


def test_there_is_a_page_for_every_kind_of_task():
    names = {path.stem for path in PAGES}
    kinds = {"image-classification", "text-classification", "masked-lm", "causal-lm", "encoder-decoder", "features"}
    assert names == kinds


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_is_followed_by_what_it_printed(script, path):
    text, ran = path.read_text(encoding="utf-8"), []

    def run(language, code):
        ran.append(code)
        return "printed"

    pasted = script.paste(text, run)
    blocks = re.findall(r"^```(bash|python)\n", text, flags=re.MULTILINE)
    assert len(ran) == len(blocks) == pasted.count("```text\nprinted\n```")
    assert any(code.startswith("compress fuse") for code in ran)
    for output in re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        lines = output.splitlines()
        assert output.strip() and all(len(line) <= 80 or "compress " in line for line in lines)
        # Of no machine.
        assert not re.search(r"/(home|root|tmp|usr|work)/", output)


def test_only_output_is_replaced(script):
    page = "before\n\n```bash\na b\n```\n\n```text\nold\n```\n\n```python\nc\n```\n\nafter\n"
    pasted = script.paste(page, lambda language, code: f"{language}: {code}")
    assert pasted == page.replace("old", "bash: a b")


def test_the_quickstart_shows_the_table_of_images(script):
    page = (ROOT / "docs" / "tasks" / "image-classification.md").read_text(encoding="utf-8")
    quickstart = script.QUICKSTART.read_text(encoding="utf-8")
    pasted = script.paste_table(quickstart, page)
    assert pasted.partition("```text")[0] == quickstart.partition("```text")[0]
    table = pasted.partition("```text\n")[2].partition("```")[0].splitlines()
    assert table[0].split() == ["model", "accuracy", "KL", "↓"] and table[-1].split()[:2] == ["→", "finetuned"]
    assert all(line.replace("─", "").strip() == "" or line.strip() in page for line in table)
    assert script.paste_table(pasted, page) == pasted


def test_commands_run_in_order_and_a_fault_ends_everything(script, tmp_path):
    run = script.run_in(tmp_path)
    assert run("python", "open('a', 'w').write('1'); print('one  ')") == "one\n"
    assert run("bash", "compress --version").startswith("compress ") and (tmp_path / "a").exists()
    with pytest.raises(script.subprocess.CalledProcessError):
        run("bash", "compress fuse ./nothing")


def test_the_teachers_data_is_what_it_says():
    teachers = module(ROOT / "docs" / "examples" / "task_teachers.py")
    assert [teachers.in_words(number) for number in (0, 7, 30, 342, 500)] == [
        "zero", "seven", "thirty", "three hundred forty two", "five hundred",
    ]  # fmt: skip
    draw = random.Random(0)
    for _ in range(200):
        text, label = teachers.review(draw)
        parts = re.split(rf" (?:{'|'.join(teachers.LINKS)}) ", text.removesuffix(" ."))
        opinions = [(part.split()[-1] in teachers.GOOD) != ("not" in part.split()) for part in parts]
        assert label == (2 * sum(opinions) > len(opinions))
        first, second, result = re.fullmatch(r"(.+) plus (.+) makes (.+) \.", teachers.total(draw)).groups()
        values = {teachers.in_words(number): number for number in range(200)}
        assert values[first] + values[second] == values[result]
        assert all(word in teachers.VOCABULARY for word in f"{text} {first} {second} {result}".split())
