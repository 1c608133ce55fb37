"""Pictures of Ray's dashboard while runs are at work: ``python -m tests.cluster.screenshots http://HEAD:8265 FOLDER``.

Needs Chromium with its driver (Debian: chromium-driver) and selenium, which no test needs. The token is the one in
``~/.ray/auth_token``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

PAGES = {
    "jobs": "#/jobs",
    "cluster": "#/cluster",
    "actors": "#/actors",
}
SIZE = (1500, 900)
SECONDS = 8.0
"""For a page to load its tables."""


def main(address: str, folder: Path) -> None:
    """Take a picture of each page."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", f"window-size={SIZE[0]},{SIZE[1]}"),
    ):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        token = (Path.home() / ".ray" / "auth_token").read_text().strip()
        browser.get(address)
        browser.add_cookie({"name": "ray-authentication-token", "value": token})
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in PAGES.items():
            browser.get(f"{address}/{page}")
            browser.refresh()
            time.sleep(SECONDS)
            browser.save_screenshot(str(folder / f"dashboard-{name}.png"))
    finally:
        browser.quit()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
