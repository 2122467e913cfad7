"""The Python in data_tools/README.md runs unchanged."""

import re
from pathlib import Path

from data_tools.open import open_store

README = Path(__file__).parents[2] / "data_tools" / "README.md"


def test_the_python_runs(folder, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (tmp_path / "photos").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    samples = int(capsys.readouterr().out.split()[0])
    for name in ("beton", "webdataset"):
        assert len(open_store(tmp_path / "prepared" / "photos" / name)) == samples > 0
