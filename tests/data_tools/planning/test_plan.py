"""prep --plan: what it predicts is what prep then does, and what it chooses is what was asked."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.errors import UserError
from data_tools.formats.registry import FORMATS
from data_tools.planning import plan as planning
from data_tools.planning import trial
from data_tools.planning.plan import Row, Target, choose, plan, ways
from data_tools.planning.plan_text import lines
from data_tools.planning.predict import loader_memory
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.quantities import duration, human, parse_size
from data_tools.store import INDEX_DTYPE, JPEG
from tests.support.made_files.sample_images import encode, jpeg, smooth


def one(store) -> float:
    return float(len(store))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """One round, and each timing over as soon as the sample was prepared once."""
    monkeypatch.setattr(planning, "ROUNDS", 1)
    monkeypatch.setattr(trial, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """JPEGs of many sizes and smoothness, PNGs, and files that are no image."""
    folder = tmp_path_factory.mktemp("mixed") / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(260):
        height, width = rng.integers(150, 420, 2)
        small = rng.integers(0, 256, (*rng.integers(4, 40, 2), 3), np.uint8)
        image = Image.fromarray(small).resize((int(width), int(height)))
        form = "PNG" if i % 9 == 0 else "JPEG"
        (folder / f"{i:03}.{form.lower()}").write_bytes(encode(image, form))
    for i in range(13):
        (folder / f"bad{i}.jpg").write_bytes(b"no image" * 100)
    return folder


def test_bytes_are_those_of_prep_in_every_format_and_way(mixed, tmp_path):
    found = {form: plan(mixed, form=form, sample=130, load=one) for form in FORMATS}
    for number, (name, _, policy) in enumerate(ways(Policy())):
        out = tmp_path / str(number)
        prepare(mixed, out, policy, sorted(FORMATS))
        for form in FORMATS:
            row = next((r for r in found[form].rows if r.name == name), None)
            if row is None:
                assert name == "longer side 500"  # nothing here is that large
                continue
            real = sum(path.stat().st_size for path in (out / form).iterdir()
                       if path.suffix in (".beton", ".tfrecord", ".rec", ".tar"))
            # A beton of so few images is some pages of 2 MiB: one more or less is its error.
            page = 1 << 21 if form == "beton" else 0
            assert abs(row.bytes - real) <= 0.05 * real + page, (form, name, row.bytes, real)


def test_what_is_bad_is_predicted_too(mixed):
    found = plan(mixed, form="recordio", sample=273, load=one)
    assert found.sampled == found.images == 273
    assert found.rows[0].quarantined == pytest.approx(13 / 273)
    assert found.rows[0].bytes_error == 0  # all were tried
    assert "about 4.8% of the images would be quarantined" in lines(found)


@pytest.fixture
def one_broken(tmp_path) -> Path:
    """299 good JPEGs, and one whose structure is whole but whose pixel data is cut short."""
    source = tmp_path / "source"
    source.mkdir()
    for i in range(299):
        (source / f"{i:03}.jpg").write_bytes(jpeg(60, 80, seed=i))
    whole = jpeg(60, 80, seed=299)
    (source / "150-broken.jpg").write_bytes(whole[: len(whole) * 2 // 3] + b"\xff\xd9")
    return source


@pytest.mark.parametrize("check", ["structure", "decode"])
def test_a_broken_jpeg_is_predicted_as_prep_treats_it(one_broken, tmp_path, check):
    loaded = []

    def load(store) -> float:
        loaded.append(len(store))
        for i in np.flatnonzero(store.kinds == JPEG).tolist():
            simplejpeg.decode_jpeg(store.encoded(i))
        return 1.0

    policy = Policy(check=check)
    found = plan(one_broken, policy, "recordio", sample=300, load=load)
    assert loaded[0] == 299  # as given; ways that re-encode the broken one mend it
    manifest = prepare(one_broken, tmp_path / "out", policy, ["recordio"])
    left_out = sum(manifest.quarantined.values())
    assert left_out == (check == "decode")
    assert found.rows[0].quarantined == pytest.approx(left_out / 300)
    assert found.rows[0].undecodable == pytest.approx((1 - left_out) / 300)
    assert found.rows[0].bytes_error == 0  # all were tried
    real = sum(manifest.files[name].bytes for name in manifest.data)
    assert found.rows[0].bytes == pytest.approx(real, rel=0.002)  # one image is 0.0033 of them
    text = "\n".join(lines(found))
    assert ("0.3% of the images would be quarantined" in text) == (check == "decode")
    assert ("0.3% of the images are stored but can't be decoded" in text) == (check != "decode")


def test_the_bare_decode_leaves_a_broken_jpeg_out(one_broken):
    assert plan(one_broken, sample=300).rows[0].load_rate > 10


def test_a_source_that_nothing_can_decode_is_one_line(tmp_path):
    whole = jpeg(60, 80)
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 2 // 3] + b"\xff\xd9")
    with pytest.raises(UserError, match="none of 1 sampled images can be decoded.*--check decode"):
        plan(tmp_path, load=one)


def test_a_sample_grows_until_its_bytes_are_known(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(160):  # every eighth is a large one
        data = jpeg(200, 200, seed=i) if i % 8 == 0 else jpeg(16, 16, seed=i)
        (source / f"{i:03}.jpg").write_bytes(data)
    found = plan(source, Policy(reencode="always", quality=50), sample=16, load=one)
    assert found.sampled > 16
    assert all(row.bytes_error <= planning.ERROR for row in found.rows) or found.sampled == 160


def test_nothing_is_left_behind(mixed, tmp_path):
    told: list[tuple[int, int]] = []
    out = tmp_path / "not" / "yet" / "there"
    plan(mixed, sample=20, load=one, out=out, progress=lambda *t: told.append(t))
    assert told[-1][0] == told[-1][1] and list(tmp_path.iterdir()) == []

    def fails(store) -> float:
        raise RuntimeError("no loader")

    with pytest.raises(RuntimeError, match="no loader"):
        plan(mixed, sample=20, load=fails, out=out)
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_an_image_is_told(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of 1 sampled images can be prepared"):
        plan(tmp_path, load=one)


def test_the_real_rate_is_measured_without_a_loader_given(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(30, 40, seed=i))
    (tmp_path / "5.png").write_bytes(encode(Image.fromarray(smooth(30, 40)), "PNG"))
    found = plan(tmp_path)
    assert found.loading.startswith("bare decode")
    assert all(row.load_rate > 10 and row.prepare_rate > 10 for row in found.rows)


def row(name: str, size: int, rate: float) -> Row:
    return Row(name, f"--{name}", size, 0.0, 100.0, 1.0, rate, 10, 20, 0.0)


ROWS = [row("as-given", 100, 50.0), row("small", 30, 120.0), row("raw", 400, 300.0)]


@pytest.mark.parametrize(
    ("target", "disk", "chosen", "reason"),
    [
        (None, None, 0, "nothing is lost; raw would load 6.0 times as fast"),
        (100, None, 1, "the least change that loads at least 100 images/s"),
        (200, None, 2, "the least change that loads at least 200 images/s"),
        (None, 60, 1, "the least change that takes at most 60 B"),
        (40, 100, 0, "the least change that loads at least 40 images/s and takes at most 100 B"),
        (200, 60, -1, "nothing here loads at least 200 images/s and takes at most 60 B; nearest is "
                      "small: 120 images/s, 30 B"),
        (None, 20, -1, "nothing here takes at most 20 B; nearest is small: 120 images/s, 30 B"),
    ],
)  # fmt: skip
def test_the_choice(target, disk, chosen, reason):
    assert choose(ROWS, Target(target, disk)) == (chosen, reason)


def test_equally_fast_ways_lose_nothing():
    assert choose(ROWS[:1], Target()) == (0, "nothing is lost")


@pytest.mark.parametrize(
    ("text", "size"),
    [("200GB", 200e9), ("1.5 TB", 1.5e12), ("800GiB", 800 << 30), ("7", 7), ("64k", 64_000)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "0", "3 XB", "1e9", "ten GB", "0.1", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="give a size, such as 200GB or 1.5TB"):
        parse_size(text)


def test_figures_for_people():
    assert [human(x) for x in (0, 999, 1500, 999_600, 2.5e6, 999.96e6, 3.25e9, 4e12)] == [
        "0 B", "999 B", "2 kB", "1.0 MB", "2.5 MB", "1.0 GB", "3.2 GB", "4.00 TB"]
    assert [duration(x) for x in (0, 0.01, 1.4, 90, 600, 3_661, 90_000)] == [
        "0 s", "0 s", "1 s", "1 min 30 s", "10 min 00 s", "1 h 01 min", "25 h 00 min"]


def test_an_outlier_costs_ffcv_but_not_us():
    rows = np.zeros(3, INDEX_DTYPE)
    rows["height"], rows["width"] = [300, 4000, 6000], [300, 6000, 4000]
    ours, ffcv = loader_memory(rows)
    assert ffcv == 5 * 256 * 6000 * 6000 * 3 * 2
    assert ours < 1e9
