"""Attempt tokens: built and parsed in one place."""

import pytest

from services.jobs.attempt_token import AttemptToken
from services.jobs.dispatch import Dispatch
from services.machine.process_identity import ProcessIdentity

DISPATCH = Dispatch("b7e0", 3)


def test_every_token_is_unique():
    tokens = {str(AttemptToken.for_dispatch(DISPATCH, "host.1.ab")) for _ in range(50)}
    assert len(tokens) == 50


@pytest.mark.parametrize(
    "token", [AttemptToken.for_dispatch(DISPATCH, "host.1.ab"), AttemptToken.for_this_process()]
)
def test_a_token_is_parsed_from_its_text(token):
    assert AttemptToken.parse(str(token)) == token


def test_the_text_of_a_token_has_the_form_of_earlier_releases():
    text = str(AttemptToken.for_dispatch(DISPATCH, "host.1.ab"))
    assert text.startswith("b7e0:3/host.1.ab/")
    assert text.count("/") == 2


@pytest.mark.parametrize(
    ("dispatch", "is_its_own"),
    [(DISPATCH, True), (Dispatch("b7e0", 30), False), (Dispatch("b7e", 3), False)],
)
def test_a_token_belongs_to_one_dispatch(dispatch, is_its_own):
    assert AttemptToken.for_dispatch(DISPATCH, "host.1.ab").belongs_to(dispatch) == is_its_own


def test_an_attempt_of_a_worker_names_no_process():
    assert AttemptToken.for_dispatch(DISPATCH, "host.1.ab").process is None


def test_an_attempt_of_a_command_names_its_process():
    assert AttemptToken.for_this_process().process == ProcessIdentity.current()


@pytest.mark.parametrize("text", ["", "/", "abc", "a/b/c/d/e/f", "host/boot/1/x/2/nonce"])
def test_any_text_is_parsed_and_names_no_process(text):
    assert AttemptToken.parse(text).process is None
