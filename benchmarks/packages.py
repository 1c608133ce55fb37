"""What an installation comes to: the wheel into an empty environment, then each extra on top, megabytes and seconds.

``make wheel`` first; pip's configuration says where packages come from, and its cache is not used. ``start_s`` is the
time of ``prelar-ray --version`` there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Result, Row, report_options, show
from prelar_ray.extras import EXTRAS

COLUMNS = {"packages": ".0f", "mb": ".0f", "install_s": ".0f", "start_s": ".2f"}
CONSTRAINTS = Path("constraints.txt")


class Environment:
    """A virtual environment in a folder of its own."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.wheel = folder, wheel
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

    def pip(self, *arguments: str) -> str:
        """Run pip and return what it says."""
        command = [str(self.folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def packages(self) -> set[str]:
        """Names and versions of what is installed."""
        return set(self.pip("list", "--format=freeze").split())

    def megabytes(self) -> float:
        """What all files take."""
        found = subprocess.run(["du", "-s", "--block-size=1", self.folder], check=True, capture_output=True, text=True)
        return int(found.stdout.split()[0]) / 1e6

    def install(self, extra: str = "") -> Row:
        """Install the package, or one of its extras beside it, and return what that took and added."""
        packages, megabytes, began = self.packages(), self.megabytes(), time.monotonic()
        wanted = f"{self.wheel}[{extra}]" if extra else str(self.wheel)
        self.pip("install", "--quiet", "--no-cache-dir", "--constraint", str(CONSTRAINTS), wanted)
        seconds = time.monotonic() - began
        return {
            "name": f"[{extra}]" if extra else "prelar-ray",
            "packages": len(self.packages() - packages),
            "mb": self.megabytes() - megabytes,
            "install_s": seconds,
        }

    def start_seconds(self) -> float:
        """Seconds until the command line says its version, the fastest of five."""
        times = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run([self.folder / "bin" / "prelar-ray", "--version"], check=True, capture_output=True)
            times.append(time.monotonic() - began)
        return min(times)

    def return_to(self, packages: set[str]) -> None:
        """Remove what was installed since."""
        if added := sorted(self.packages() - packages):
            self.pip("uninstall", "--yes", "--quiet", *(name.partition("==")[0] for name in added))


def measure(wheel: Path, extras: Sequence[str]) -> list[Row]:
    """A row for the package alone, and for what each extra adds to it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder) / "venv", wheel)
        rows = [environment.install()]
        rows[0]["start_s"] = environment.start_seconds()
        alone = environment.packages()
        for extra in extras:
            rows.append(environment.install(extra))
            environment.return_to(alone)
    return rows


def main(argv: Sequence[str]) -> int:
    """Install and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks packages", description=__doc__)
    parser.add_argument("wheel", type=Path, help="of make wheel, in dist/")
    parser.add_argument(
        "--extras", nargs="*", default=[*EXTRAS, "all"], metavar="NAME", help="default: every one, and all"
    )
    report_options(parser)
    args = parser.parse_args(argv)
    rows = measure(args.wheel.absolute(), args.extras)
    machine = {"wheel MB": round(args.wheel.stat().st_size / 1e6, 2)}
    show(Result("packages", {"wheel": args.wheel.name}, machine, rows), COLUMNS, args)
    return 0
