"""The tokenizers of an evaluation's checkpoints, so that a page can mark single tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from led_rl.terminal.token_texts import TokenTexts


def token_texts(manifest: Mapping[str, Any]) -> tuple[dict[str, TokenTexts], list[str]]:
    """The tokenizer of each checkpoint of an evaluation, from disk alone, and a sentence for each that is not there.

    Checkpoints whose tokenizers are equal share one.
    """
    found: dict[str, TokenTexts] = {}
    missing = []
    by_content: dict[Any, TokenTexts] = {}
    for label, checkpoint in manifest.get("checkpoints", {}).items():
        path = str(checkpoint["path"])
        content = Path(path, "tokenizer.json")
        key = content.read_bytes() if content.is_file() else path
        try:
            if key not in by_content:
                from transformers import AutoTokenizer

                by_content[key] = TokenTexts(AutoTokenizer.from_pretrained(path, local_files_only=True))
            found[label] = by_content[key]
        except Exception as error:  # whatever a tokenizer's own loading raises
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            missing.append(f"The tokenizer of {label} ({path}) is not here, so its tokens are not marked: {reason}")
    return found, missing
