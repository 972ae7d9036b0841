import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.audio import as_audio
from services.audio.arrays import check_sample_rate


class Dtype:
    def __init__(self, name):
        self.name = name
        self.is_floating_point = "float" in name


class Tensor:
    """Raises what a torch tensor raises, so that the order of the calls is tested."""

    def __init__(self, values, dtype="float32", *, device="cpu", grad=False):
        self.values, self.dtype, self.device, self.grad = values, Dtype(dtype), device, grad

    def _with(self, **changes):
        state = {"dtype": self.dtype.name, "device": self.device, "grad": self.grad} | changes
        return Tensor(self.values, **state)

    def detach(self):
        return self._with(grad=False)

    def cpu(self):
        return self._with(device="cpu")

    def float(self):
        return self._with(dtype="float32")

    def numpy(self):
        if self.grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.device != "cpu":
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if self.dtype.name == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.asarray(self.values, self.dtype.name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("grad", [False, True])
def test_any_float_tensor_becomes_float32(dtype, device, grad):
    audio = as_audio(Tensor([[0.5, -0.25]], dtype, device=device, grad=grad))
    assert audio.dtype == np.float32
    assert audio.tolist() == [[0.5, -0.25]]


def test_integer_tensors_are_scaled_like_integer_arrays():
    assert as_audio(Tensor([16384, -32768], "int16")).tolist() == [[0.5, -1.0]]


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "longdouble"])
def test_any_float_array_keeps_its_values(dtype):
    audio = as_audio(np.array([[0.5, -0.25, 1.5]], dtype))
    assert audio.dtype == np.dtype("float32")
    assert audio.dtype.isnative
    assert audio.tolist() == [[0.5, -0.25, 1.5]]


@pytest.mark.parametrize(
    ("dtype", "low"), [("<i2", -(2**15)), (">i2", -(2**15)), (">i4", -(2**31))]
)
def test_integers_have_full_scale_at_one(dtype, low):
    audio = as_audio(np.array([low, 0, -(low // 2)], dtype))
    assert audio.tolist() == [[-1.0, 0.0, 0.5]]


def test_one_dimension_becomes_one_channel():
    assert as_audio(np.zeros(7)).shape == (1, 7)


def test_mono_and_stereo_keep_their_channels():
    assert as_audio(np.zeros((1, 7))).shape == (1, 7)
    assert as_audio(np.zeros((2, 7))).shape == (2, 7)


def test_result_is_contiguous_for_any_strides():
    frames = np.arange(20, dtype=np.float32).reshape(10, 2) / 20
    audio = as_audio(frames.T)
    assert audio.flags.c_contiguous
    assert np.array_equal(audio, frames.T)
    assert np.array_equal(as_audio(frames.T[:, ::-3]), frames.T[:, ::-3])


def test_valid_array_is_not_copied():
    audio = np.zeros((2, 9), np.float32)
    assert as_audio(audio) is audio


@pytest.mark.parametrize("shape", [(), (1, 2, 3), (1, 1, 1, 4)])
def test_other_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="Invalid audio dimensions"):
        as_audio(np.zeros(shape))


@pytest.mark.parametrize("shape", [(0,), (1, 0), (2, 0), (0, 5)])
def test_empty_audio_is_refused(shape):
    with pytest.raises(ValueError, match="Empty audio"):
        as_audio(np.zeros(shape))


def test_more_than_two_channels_are_refused():
    with pytest.raises(ValueError, match=r"Expected max 2 channels .* got 6\.$"):
        as_audio(np.zeros((6, 100)))


@pytest.mark.parametrize("channels", [1, 2])
def test_channels_last_is_refused_with_a_hint_to_transpose(channels):
    with pytest.raises(ValueError, match=r"Expected max 2 channels .*transpose it"):
        as_audio(np.zeros((48_000, channels)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_values_beyond_float32_are_refused(value):
    signal = np.zeros((2, 50))
    signal[1, 17] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        as_audio(signal)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64", "bool", "complex64", "U3"])
def test_types_without_a_full_scale_are_refused(dtype):
    with pytest.raises(ValueError, match="Unsupported sample type"):
        as_audio(np.zeros(5, dtype))


@pytest.mark.parametrize("signal", [None, [0.0, 1.0], "audio.wav", b"RIFF", 3])
def test_other_objects_raise_type_error(signal):
    with pytest.raises(TypeError, match="Expected a torch tensor or a NumPy array"):
        as_audio(signal)


@pytest.mark.parametrize("rate", [8_000, 44_100, np.int64(48_000), 192_000])
def test_rates_from_8_to_192_khz_are_accepted(rate):
    assert check_sample_rate(rate) == rate
    assert type(check_sample_rate(rate)) is int


@pytest.mark.parametrize("rate", [-48_000, 0, 7_999, 192_001])
def test_other_rates_are_refused(rate):
    with pytest.raises(ValueError, match="Unsupported sample rate"):
        check_sample_rate(rate)


@pytest.mark.parametrize("rate", [44_100.0, "48000", None])
def test_rate_must_be_an_integer(rate):
    with pytest.raises(TypeError):
        check_sample_rate(rate)


@given(
    hnp.arrays(
        st.sampled_from(["<f2", ">f4", "<f8", "<i2", ">i4", "u1", "<i8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    )
)
def test_any_array_is_refused_or_converted(signal):
    try:
        audio = as_audio(signal)
    except ValueError:
        return
    assert audio.dtype == np.float32
    assert audio.flags.c_contiguous
    assert audio.shape[0] in {1, 2}
    assert audio.size == signal.size
    assert np.isfinite(audio).all()
