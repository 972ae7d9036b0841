from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.musicgen.checkpoint.parts import open_weights
from services.generation.musicgen.conditioning.text import TextEncoder
from tests.generation.musicgen.checkpoints import write_checkpoint

PROMPTS = [
    "a beat",
    "Lo-fi beat with bass, drums and a piano at 82 BPM",
    "ünïcode ♫ and  double   spaces\n",
    "x" * 500,
]


@pytest.fixture(scope="module")
def encoder(written):
    _, checkpoint = written("mono")
    return TextEncoder.load(checkpoint, open_weights(checkpoint))


def test_a_prompt_has_the_tokens_of_the_tokenizer_of_transformers(encoder, written):
    _, checkpoint = written("mono")
    theirs = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    for prompt in PROMPTS:
        assert encoder.tokenize(prompt) == theirs(prompt).input_ids


def test_states_are_what_transformers_feeds_its_decoder_for_a_padded_batch(encoder, written):
    model, _ = written("mono")
    ids = [encoder.tokenize(prompt) for prompt in PROMPTS]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    seen = {}
    hook = model.decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model.generate(input_ids=padded, attention_mask=mask, max_new_tokens=4, do_sample=False)
    hook.remove()
    for row, states in enumerate(encoder.encode(PROMPTS)):
        assert states.shape == (len(ids[row]), 64)
        assert states.dtype == torch.float32
        wanted = seen["encoder_hidden_states"][row, : len(ids[row])]
        torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)
        assert not seen["encoder_hidden_states"][len(PROMPTS) + row].any()


def test_a_prompts_states_do_not_depend_on_its_neighbours(encoder):
    alone = encoder.encode(PROMPTS[:1])[0]
    assert torch.equal(alone, encoder.encode(PROMPTS)[0])
    assert torch.equal(alone, encoder.encode([*PROMPTS[2:], PROMPTS[0]])[-1])


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '{"model": {"type": "Unigram"}}'])
def test_a_broken_tokenizer_is_named(tmp_path, content):
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TextEncoder.load(checkpoint, open_weights(checkpoint))


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(tmp_path, monkeypatch):
    write_checkpoint(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    more = ", ".join(f'["new{number}", -9.0]' for number in range(200))
    text = text.replace('"vocab": [', f'"vocab": [["<pad>", 0.0], {more}, ', 1)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="200"):
        TextEncoder.load(checkpoint, open_weights(checkpoint))


def test_an_empty_prompt_has_the_end_token_only(encoder):
    assert encoder.tokenize("") == [1]
    (states,) = encoder.encode([""])
    assert states.shape == (1, 64)


def test_no_prompts_give_no_states(encoder):
    assert encoder.encode([]) == []


def test_packed_layers_keep_the_states(written):
    model, checkpoint = written("mono")
    encoder = TextEncoder.load(checkpoint, open_weights(checkpoint))
    ids = torch.tensor([encoder.tokenize(PROMPTS[1])])
    with torch.inference_mode():
        wanted = model.enc_to_dec_proj(model.text_encoder(ids).last_hidden_state[0])
    (states,) = encoder.encode([PROMPTS[1]])
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)
