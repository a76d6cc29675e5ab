"""Dataset (hub id or local JSONL) -> rows with a chat prompt and the columns that the rewards read."""

import json
import re
import sys
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from led_rl.decoding import UserError
from rewards.answer_text.braces import group_end

if TYPE_CHECKING:
    from datasets import Dataset

EXTRACTIONS = ("auto", "whole", "after_hashes", "last_box")
PROBLEM_COLUMNS = ("problem", "question")


class DatasetError(UserError):
    """A dataset that cannot be read, or a row that cannot be used; names the file or hub id, and the row."""


def read_rows(source: str, config: str | None = None, split: str = "train", limit: int | None = None) -> list[dict]:
    """Rows of a local JSONL file, or of a split of a hub dataset.

    Raises DatasetError: the file is missing or empty, a line is not a JSON object, or the hub does not answer.
    """
    if looks_local(source):
        return [row for _, row in read_jsonl(source, limit)]
    from datasets import load_dataset

    try:
        dataset = load_dataset(source, config, split=split)
    except Exception as error:  # the hub client raises whatever its transport does
        raise DatasetError(
            f"dataset {source!r} (config {config!r}, split {split!r}) cannot be loaded from the hub: "
            f"{type(error).__name__}: {error}. For a local file give a path that ends in .jsonl"
        ) from error
    if not len(dataset):
        raise DatasetError(f"dataset {source!r} (config {config!r}, split {split!r}) has no rows")
    return list(dataset.select(range(min(limit or len(dataset), len(dataset)))))


def looks_local(source: str) -> bool:
    """Whether a source names a file rather than a dataset of the hub; the file need not exist."""
    return source.endswith((".jsonl", ".json")) or source.startswith((".", "/", "~")) or Path(source).is_file()


def read_jsonl(path: str | Path, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the line and its object, of the first `limit` rows of a JSONL file; blank lines are no rows.

    Raises:
        DatasetError: names the file, and the line if one is at fault.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"file {str(path)!r} {'is a folder' if path.is_dir() else 'does not exist'}")
    rows = 0
    with path.open("rb") as lines:  # lines end at \n alone: U+2028 may stand within a text
        for number, line in enumerate(lines, start=1):
            if limit is not None and rows >= limit:
                break
            if not line.strip():
                continue
            try:
                yield number, json_row(line)
            except ValueError as error:
                raise DatasetError(f"{path}, line {number}: {error}") from error
            rows += 1
    if not rows:
        raise DatasetError(f"file {str(path)!r} has no rows")


def json_row(line: bytes) -> dict[str, Any]:
    """The object in a line of a JSONL file, a byte-order mark left out; raises ValueError that says what is wrong."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    except ValueError as error:  # Python's own limit
        digits = sys.get_int_max_str_digits()
        raise ValueError(f"an integer of more than {digits} digits: write it as a text") from error
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    if b"\\ud" in line or b"\\uD" in line:  # half of a surrogate pair is no text: tokenizers and Arrow refuse it
        text = json.dumps(row, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        row = json.loads(text)
    return row


def to_prompts(
    rows: list[dict],
    source: str,
    problem_column: str | None = None,
    answer_column: str | None = None,
    answer_extraction: str = "auto",
    prompt_template: str = "{problem}",
    system_prompt: str | None = None,
) -> "Dataset":
    """Rows with `prompt` (chat messages), `answer` (if `answer_column` is given) and every other column as it was.

    Without `problem_column`, the first of PROBLEM_COLUMNS that the rows have. `answer` is None where the column holds
    no answer of the kind that `answer_extraction` names.

    Raises DatasetError naming the first row without the problem or answer column, and the columns it has.
    """
    problem_column = problem_column or next((name for name in PROBLEM_COLUMNS if name in rows[0]), PROBLEM_COLUMNS[0])
    prepared = []
    for number, row in enumerate(rows, start=1):
        for column in filter(None, (problem_column, answer_column)):
            if row.get(column) is None:
                raise DatasetError(f"{source}, row {number}: no column {column!r}; columns: {', '.join(row)}")
        try:
            messages = to_messages(row[problem_column], prompt_template, system_prompt)
        except ValueError as error:
            raise DatasetError(f"{source}, row {number}: column {problem_column!r}: {error}") from error
        answer: dict[str, Any] = {}
        if answer_column:
            answer["answer"] = extract_answer(str(row[answer_column]), answer_extraction)
        # `prompt` and `completion` mean chat messages to TRL
        others = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        prepared.append({"prompt": messages} | others | answer)
    columns = dict.fromkeys(column for row in prepared for column in row)  # rows may lack some
    return _to_dataset({column: [row.get(column) for row in prepared] for column in columns}, source)


def to_messages(problem: Any, template: str, system: str | None) -> list[dict[str, str]]:
    """Chat messages of a problem: a text within the template, or messages, of which the last is the user's.

    Of messages, the last text stands within the template, and `system` comes first unless they have a system message.
    Raises ValueError for a list that holds anything but messages of texts.
    """
    if not isinstance(problem, list):
        problem = [{"role": "user", "content": str(problem)}]
    for message in problem:
        texts = isinstance(message, dict) and [message.get("role"), message.get("content")]
        if not (texts and all(isinstance(text, str) for text in texts)):
            raise ValueError(f"a text, or a list of messages with role and content, expected; got {message!r:.80}")
    if not problem or problem[-1]["role"] != "user":
        raise ValueError("messages must end with one of role 'user', which the model answers")
    messages = [{"role": message["role"], "content": message["content"]} for message in problem]
    messages[-1]["content"] = template.replace("{problem}", messages[-1]["content"])
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _to_dataset(columns: dict[str, list], source: str) -> "Dataset":
    """Raises DatasetError naming the first row and the column that the table cannot hold."""
    from datasets import Dataset

    def failure(column: str, rows: int) -> Exception | None:
        try:
            Dataset.from_dict({column: columns[column][:rows]})
        except (ValueError, TypeError, OverflowError) as error:  # Arrow's errors and UnicodeEncodeError are ValueErrors
            return error
        return None

    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError, OverflowError):
        own = sorted(columns, key=lambda name: name == "prompt")  # it is made of another column
        column = next((name for name in own if failure(name, len(columns[name]))), None)
        if column is None:
            raise
    row = bisect_left(range(1, len(columns[column]) + 1), True, key=lambda rows: failure(column, rows) is not None)
    reason = str(failure(column, row + 1)).splitlines()[0]
    raise DatasetError(
        f"{source}, row {row + 1}: column {column!r}: {columns[column][row]!r:.80} cannot be held beside the rows "
        f"before it ({reason}): a column holds one type, integers below 2**63, and text that is Unicode"
    )


def _without_thousands_separators(text: str) -> str:
    """1,234 as 1234; the commas of lists, tuples and intervals stay."""
    if re.search(r"[(\[{]", text):
        return text
    return re.sub(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d|,\d)", lambda match: match[0].replace(",", ""), text)


def extract_answer(text: str, extraction: str) -> str | None:
    """The gold answer in a column: all of it, what follows `####` (GSM8K), or the last `\\boxed{...}` (MATH).

    After `####` thousands separators are dropped: 1,234 is 1234, while 3, 5 and (1,2) keep their commas.

    `auto` is `after_hashes` where the text has `####`, else all of it. MATH also writes `$\\boxed 2$`. None if the text
    holds no such answer.
    """
    if extraction == "whole" or (extraction == "auto" and "####" not in text):
        return text.strip()
    if extraction in ("auto", "after_hashes"):
        found = re.search(r"####\s*(.+?)\s*$", text)
        return _without_thousands_separators(found[1]) if found else None
    boxes = list(re.finditer(r"\\boxed\s*", text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        unbraced = re.match(r"([^$\n]+)\$", text[start:])
        return unbraced[1].strip() if unbraced else None
    closed = group_end(text, start)
    return None if closed is None else text[start + 1 : closed - 1]
