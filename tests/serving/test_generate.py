"""Inputs made to fit: wishes as users write them, sizes, and values in their range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import BadInput
from serving.generate import Hints, dimension, generated_rows, possible_sizes, said_sizes
from serving.records import TensorSpec, has_batch_axis
from serving.rows import count_rows, load_rows, row_bytes, save_rows, take
from serving.v2 import dtype_of
from serving.wishes import Wish, check_wishes, parse_wish

DATATYPES = ["FP32", "FP64", "FP16", "INT64", "INT32", "UINT8", "INT8", "BOOL", "BYTES"]
DIMENSIONS = st.lists(st.sampled_from([1, 2, 3]) | st.sampled_from(["h", "w"]), max_size=3)


@st.composite
def specs(draw: st.DrawFn) -> tuple[TensorSpec, ...]:
    """Signatures with and without a batch axis, with fixed, named and nameless dimensions."""
    batch = draw(st.booleans())
    made = []
    for index in range(draw(st.integers(1, 3))):
        dims: list[int | str] = [*(["b"] if batch else []), *draw(DIMENSIONS)]
        free = tuple(d if isinstance(d, int) else -1 for d in dims)
        named = tuple(None if isinstance(d, int) else d for d in dims)
        made.append(
            TensorSpec(
                name=f"in{index}",
                datatype=draw(st.sampled_from(DATATYPES)),
                shape=free,
                symbols=named if any(named) else (),
            )
        )
    return tuple(made)


def small_sizes(specs: tuple[TensorSpec, ...], batched: bool) -> dict[str, int]:
    """The first sizes that are proposed, cut down, so that a test takes no time."""
    return {key: min(n, 5) for key, n in possible_sizes(specs, [], batched=batched)[0].items()}


@given(specs=specs(), rows=st.integers(1, 4), seed=st.integers(0, 9))
@settings(deadline=None)
def test_rows_fit_their_signature(specs: tuple[TensorSpec, ...], rows: int, seed: int) -> None:
    """Every row has the type and shape that the model takes; equal names have equal sizes.

    The same seed gives the same rows, and they survive their file.
    """
    batched = has_batch_axis(specs, specs)
    sizes = small_sizes(specs, batched)
    made = generated_rows(specs, rows, seed, batched=batched, sizes=sizes)
    assert count_rows(made) == rows
    assert row_bytes(made) > 0
    call = take(made, range(rows), batched=batched)
    seen: dict[str, int] = {}
    for spec in specs:
        values = call[spec.name]
        assert values.dtype == dtype_of(spec.datatype)
        assert len(values.shape) == len(spec.shape)
        for axis, (want, got) in enumerate(zip(spec.shape, values.shape, strict=True)):
            if want != -1:
                assert got == want
            else:
                assert seen.setdefault(dimension(spec, axis), got) == got
    again = generated_rows(specs, rows, seed, batched=batched, sizes=sizes)
    for name, values in made.items():
        np.testing.assert_array_equal(values, again[name])


@given(specs=specs())
@settings(deadline=None)
def test_rows_survive_their_file(
    tmp_path_factory: pytest.TempPathFactory, specs: tuple[TensorSpec, ...]
) -> None:
    """Numbers, truth values and text come back as they were, without pickle."""
    batched = has_batch_axis(specs, specs)
    sizes = small_sizes(specs, batched)
    made = generated_rows(specs, 2, 0, batched=batched, sizes=sizes)
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    save_rows(path, made)
    for name, values in load_rows(path).items():
        np.testing.assert_array_equal(values, made[name])
        assert values.dtype == made[name].dtype


@given(low=st.integers(-1000, 1000), width=st.integers(0, 50), seed=st.integers(0, 5))
@settings(deadline=None)
def test_a_range_is_kept(low: int, width: int, seed: int) -> None:
    """Values lie within what the user says, both ends included."""
    spec = TensorSpec(name="x", datatype="INT64", shape=(-1, 40))
    wish = parse_wish(f"x={low}..{low + width}")
    values = generated_rows([spec], 20, seed, wishes=[wish])["x"]
    assert values.min() >= low
    assert values.max() <= low + width
    if width < 5:
        assert set(values.flat) == set(range(low, low + width + 1))


def test_wishes_are_read_as_users_write_them() -> None:
    """Each part may be left out."""
    assert parse_wish("ids=int64[b,128]:0..30521") == Wish("ids", "INT64", ("b", 128), 0.0, 30521.0)
    assert parse_wish("ids=0..30521") == Wish("ids", None, None, 0.0, 30521.0)
    assert parse_wish("x=[b, 3, h, w]") == Wish("x", None, ("b", 3, "h", "w"))
    assert parse_wish("sr=16000") == Wish("sr", None, None, 16000.0, 16000.0, ("16000",))
    assert parse_wish("t=string[b]:yes|no") == Wish("t", "BYTES", ("b",), words=("yes", "no"))
    assert parse_wish("t=hello|world").words == ("hello", "world")
    assert parse_wish("x=float[]") == Wish("x", "FP32", ())
    assert parse_wish("x=-1e-3..2.5") == Wish("x", None, None, -0.001, 2.5)
    assert parse_wish("x=:1..2") == parse_wish("x=1..2")


@pytest.mark.parametrize("text", ["rows.npz", "x=rows.npz", "x=far/rows.parquet"])
def test_rows_of_a_file_are_asked_for_elsewhere(text: str) -> None:
    """The option that takes them is named."""
    with pytest.raises(BadInput, match="--payload FILE"):
        parse_wish(text)


@pytest.mark.parametrize("text", ["ids", "=3", "x=", "x=5..1", "x=1..", "x=flaot[3]", "x=a..b"])
def test_a_wish_that_cannot_be_read_says_how(text: str) -> None:
    """One line that names the option and shows the form."""
    with pytest.raises(BadInput, match="--input"):
        parse_wish(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("idz=0..5", "did you mean 'ids'"),
        ("ids=float", "takes INT64"),
        ("ids=[b,7]", "do not fit"),
        ("ids=[b]", "do not fit"),
        ("ids=a|b", "is no INT64"),
        ("words=0..5", "takes text"),
        ("small=0..300", "does not fit UINT8"),
    ],
)
def test_a_wish_that_the_model_contradicts_is_refused(text: str, says: str) -> None:
    """Unknown names, other types, other dimensions, ranges beyond the type."""
    specs = [
        TensorSpec(name="ids", datatype="INT64", shape=(-1, 8)),
        TensorSpec(name="words", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="small", datatype="UINT8", shape=(-1, 2)),
    ]
    with pytest.raises(BadInput, match=says):
        check_wishes(specs, [parse_wish(text)])


def test_what_is_known_of_an_input_is_used() -> None:
    """A vocabulary bounds ids, masks are ones, states begin at zero, bytes span their range."""
    specs = [
        TensorSpec(name="ids", datatype="INT64", shape=(-1, 50)),
        TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, 50)),
        TensorSpec(name="h", datatype="FP32", shape=(-1, 4)),
        TensorSpec(name="image", datatype="UINT8", shape=(-1, 50)),
        TensorSpec(name="other", datatype="INT64", shape=(-1, 50)),
    ]
    rows = generated_rows(specs, 20, 0, hints=Hints({"ids": 7}, frozenset({"h"})))
    assert set(rows["ids"].flat) == set(range(7))
    assert (rows["attention_mask"] == 1).all()
    assert not rows["h"].any()
    assert rows["image"].max() > 200
    assert set(rows["other"].flat) == {0, 1}


def test_what_the_user_says_of_dimensions_is_kept_in_every_try() -> None:
    """A number fixes a size, one name ties two dimensions, b is a batch of one."""
    specs = [
        TensorSpec(name="x", datatype="FP32", shape=(1, -1, -1)),
        TensorSpec(name="y", datatype="FP32", shape=(2, -1)),
        TensorSpec(name="s", datatype="FP32", shape=(2, -1, 4)),
    ]
    wishes = [parse_wish("x=[1,80,t]"), parse_wish("y=[2,t]"), parse_wish("s=[2,b,4]")]
    tries = possible_sizes(specs, wishes, batched=False)
    assert len(tries) > 3
    for sizes in tries:
        assert sizes["x.1"] == 80
        assert sizes["x.2"] == sizes["y.1"]
        assert sizes["s.1"] == 1


def test_sizes_that_are_said_are_enough() -> None:
    """A server says no names of its dimensions; numbers in a wish fill them."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, -1))
    wishes = [parse_wish("x=[b,3,7]")]
    rows = generated_rows([spec], 2, 0, sizes=said_sizes([spec], wishes), wishes=wishes)
    assert rows["x"].shape == (2, 3, 7)


def test_an_unknown_size_is_asked_for() -> None:
    """Without sizes a free dimension is not guessed; both ways out are named."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, -1))
    with pytest.raises(BadInput, match=r"--input 'x=.*--payload"):
        generated_rows([spec], 2, 0)
