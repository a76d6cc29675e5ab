"""Texts of single tokens add up to the text of all."""

from led_rl.terminal.token_texts import TokenTexts


def test_characters_of_several_tokens_stand_with_their_last_one():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=core))
    ids = core.encode("a é😀b").ids
    assert texts.pieces(ids) == ["a", " ", "", "é", "", "", "", "😀", "b"]
    assert "".join(texts.pieces(ids[:-2])).startswith("a é")  # cut off within a character
    assert len(texts.pieces(ids[:-2])) == len(ids) - 2
