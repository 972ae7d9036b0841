import threading
import time

from services.generation.musicgen.turns import Turns


def _until(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_it_goes_to_who_asked_first_and_never_to_two():
    turns, inside, order = Turns(), [], []

    def take(number):
        with turns:
            inside.append(number)
            assert len(inside) == 1
            order.append(number)
            inside.remove(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns:
        for count, thread in enumerate(threads, start=1):
            thread.start()
            _until(lambda count=count: len(turns._waiting) == count)
        assert not order
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_one_that_takes_it_again_and_again_lets_another_in():
    turns, was_in = Turns(), threading.Event()

    def take():
        with turns:
            was_in.set()

    other = threading.Thread(target=take)
    with turns:
        other.start()
        _until(lambda: turns._waiting)
    with turns:
        assert was_in.is_set()
    other.join()


def test_an_error_inside_gives_it_back():
    turns = Turns()
    try:
        with turns:
            raise ValueError
    except ValueError:
        pass
    with turns:
        assert turns._is_taken
    assert not turns._is_taken
