"""The console in a real browser: what a person sees and does, and that nothing leaves the machine."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image
from scipy.io import wavfile

from tests.serve.live import LiveServer, serving
from tightship.api import packing
from tightship.api.accessing import add_key
from tightship.package.declaring import ProcessingFiles

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

HOSTILE = '<img src=x onerror="document.title=1"> &amp; <b>bold</b>'
REPORT = (
    "<!doctype html><style>p { color: rgb(1, 2, 3) }</style><p id=said>So small it became</p>"
    "<script>document.getElementById('said').textContent = 'a script ran'; parent.document.title = 'taken'</script>"
    "<img src='https://example.com/x.png'>"
)
NETS = {
    "shades": "(float[N, 3, 4, 4] pixels) => (float[N, 2] scores) <int64[3] axes = {1, 2, 3}, float[1] one = {1.0}> "
    "{ m = ReduceMean <keepdims = 0> (pixels, axes)  b = Unsqueeze (m, last)  d = Sub (one, b) "
    " scores = Concat <axis = 1> (d, b) }",
    "letters": "(int64[N, T] ids) => (float[N, 1] mean) <int64[1] axes = {1}> "
    "{ f = Cast <to = 1> (ids)  mean = ReduceMean <keepdims = 1> (f, axes) }",
    "loudness": "(float[N, 800] samples) => (float[N, 1] loudest) <int64[1] axes = {1}> "
    "{ a = Abs (samples)  loudest = ReduceMax <keepdims = 1> (a, axes) }",
    "double": "(float[N, 3] x) => (float[N, 3] y) { y = Add (x, x) }",
}
DECLARED = {
    "shades": "[image]\nrange = [0, 1]\n[outputs]\nlabels = 'labels.txt'\n",
    "letters": "[text]\ntokens = 'bytes'\n[outputs]\nkind = 'numbers'\nlabels = 'names.txt'\n",
    "loudness": "[audio]\nrate_hz = 8000\n[outputs]\nkind = 'numbers'\n",
}


def package(folder: Path, name: str, version: str = "1", twice: bool = False) -> Path:
    """Pack a network of `NETS` with what it declares; `twice` gives another one that answers the same."""
    text = NETS[name].replace("(x, x) }", "(x, x) z = Identity (x) }") if twice else NETS[name]
    text = text.replace("<int64[3] axes", "<int64[1] last = {1}, int64[3] axes")
    place = folder / f"{name}-{version}.onnx"
    onnx.save(parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {name} {text}'), place)
    if name == "double":
        place.with_suffix(".report.html").write_text(REPORT)
    (folder / "labels.txt").write_text("dark\nbright\n")
    (folder / "names.txt").write_text("mean byte\n")
    (folder / "p.toml").write_text(DECLARED.get(name, ""))
    declared = ProcessingFiles(folder / "p.toml") if name in DECLARED else ProcessingFiles()
    use = HOSTILE if name == "double" else ""
    packing.pack([place], place.with_suffix(".ship"), name, version, intended_use=use, processing=declared)
    return place.with_suffix(".ship")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("console")
    with serving(folder, [package(folder, name) for name in NETS], "--no-grpc") as live:
        yield live


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--host-resolver-rules=MAP evil.example 127.0.0.1"]
        )
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, what it complained of, and where it asked."""

    page: Any
    complaints: list[str]
    asked: list[str]

    def open(self, server: LiveServer, model: str = "") -> Any:
        self.page.goto(f"{server.url}/{f'#/model/{model}' if model else ''}")
        self.page.wait_for_selector(".columns" if model else ".model")
        return self.page


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def new(**options: Any) -> Visit:
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        made = Visit(context.new_page(), [], [])
        made.page.on("console", lambda said: made.complaints.append(said.text) if said.type == "error" else None)
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("requestfinished", lambda request: made.asked.append(request.url))
        return made

    yield new
    for context in contexts:
        context.close()


def picture(level: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (level, level, level)).save(file, "PNG")
    return {"name": "p.png", "mimeType": "image/png", "buffer": file.getvalue()}


def test_the_first_page_names_every_model_and_asks_no_other_place(
    server: LiveServer, visit: Callable[..., Visit]
) -> None:
    made = visit()
    page = made.open(server)
    assert page.locator(".model strong").all_inner_texts() == sorted(NETS)
    assert page.locator(".model .pill").all_inner_texts() == ["ready"] * len(NETS)
    page.wait_for_selector(".chart svg text")
    assert all(url.startswith(server.url) for url in made.asked)
    assert made.complaints == []


def test_a_picture_gets_its_labels(server: LiveServer, visit: Callable[..., Visit]) -> None:
    made = visit()
    page = made.open(server, "shades")
    page.set_input_files("input[accept='image/*']", picture(204))
    page.wait_for_selector(".results li")
    assert page.locator(".results li").first.inner_text().split("\n") == ["bright", "80 %"]
    assert "Version 1 answered" in page.locator(".answer").inner_text()
    assert page.locator(".drop img").is_visible()
    assert made.complaints == []


def test_a_picture_can_be_pasted(server: LiveServer, visit: Callable[..., Visit]) -> None:
    page = visit().open(server, "shades")
    page.evaluate(
        """() => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 9, height: 9 });
            return new Promise((resolve) => canvas.toBlob((blob) => {
                const data = new DataTransfer();
                data.items.add(new File([blob], "x.png", { type: "image/png" }));
                dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
                resolve();
            }));
        }"""
    )
    page.wait_for_selector(".results li")
    assert page.locator(".results .label").first.inner_text() == "dark"


def test_a_text_gets_its_numbers(server: LiveServer, visit: Callable[..., Visit]) -> None:
    page = visit().open(server, "letters")
    page.fill("#text", "aé")
    page.press("#text", "Control+Enter")
    page.wait_for_selector(".answer dd")
    assert page.locator(".answer dl").inner_text().split() == ["mean", "byte", "153.667"]  # (97 + 195 + 169) / 3


def test_a_sound_is_played_and_answered(server: LiveServer, visit: Callable[..., Visit]) -> None:
    file = io.BytesIO()
    wavfile.write(file, 8000, np.array([0, 16384] * 200, np.int16))
    page = visit().open(server, "loudness")
    page.set_input_files(
        "input[accept='audio/*']", {"name": "s.wav", "mimeType": "audio/wav", "buffer": file.getvalue()}
    )
    page.wait_for_selector(".answer dd")
    assert page.locator(".answer dd").inner_text() == "0.5"
    assert page.locator("audio").is_visible()


def test_numbers_get_numbers_and_a_wrong_one_is_told_before_it_is_sent(
    server: LiveServer, visit: Callable[..., Visit]
) -> None:
    page = visit().open(server, "double")
    page.fill("textarea", "[1, 2.5, -3]")
    page.click("text=Ask the model")
    page.wait_for_selector(".answer pre")
    assert page.locator(".answer pre").first.inner_text() == "2, 5, -6"
    page.fill("textarea", "[1, 2]")
    page.click("text=Ask the model")
    assert page.locator("form .note.bad").inner_text() == "x: 2 values were given; the shape 1 × 3 takes 3"


def test_what_the_server_refuses_is_shown_in_its_words(server: LiveServer, visit: Callable[..., Visit]) -> None:
    page = visit().open(server, "shades")
    page.set_input_files("input[accept='image/*']", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector(".answer .note.bad")
    assert "no picture that can be read" in page.locator(".answer .note.bad").inner_text()


def test_the_command_for_a_terminal_does_what_the_page_does(server: LiveServer, visit: Callable[..., Visit]) -> None:
    page = visit().open(server, "shades")
    page.click("text=From a terminal or a program")
    said = page.locator(".code pre").inner_text()
    assert said.startswith(f"curl {server.url}/v2/models/shades/infer -H 'Content-Type: image/jpeg' --data-binary @")
    status, body = server.get("/v2/models/shades/infer", picture(255)["buffer"], {"content-type": "image/jpeg"})
    assert (status, b'"label":"bright","index":1,"score":1.0' in body) == (200, True)


def test_the_program_for_a_large_tensor_runs(server: LiveServer, visit: Callable[..., Visit]) -> None:
    page = visit().open(server, "loudness")
    page.click("text=Numbers")
    page.click("text=From a terminal or a program")
    program = page.locator(".code pre").inner_text()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, "'shape': [1, 1], 'data': [0.0]" in done.stdout) == (0, True), done


def test_words_of_a_package_are_text_whatever_they_look_like(server: LiveServer, visit: Callable[..., Visit]) -> None:
    made = visit()
    page = made.open(server, "double")
    assert page.locator(".lead").inner_text() == HOSTILE
    assert page.title() == "double – tightship"
    assert made.complaints == []


def test_a_report_is_drawn_in_a_frame_where_nothing_runs(server: LiveServer, visit: Callable[..., Visit]) -> None:
    made = visit()
    page = made.open(server, "double")
    page.click("text=Show the report")
    said = page.frame_locator("iframe").locator("#said")
    said.wait_for()
    assert said.inner_text() == "So small it became"
    assert said.evaluate("element => getComputedStyle(element).color", timeout=5000) == "rgb(1, 2, 3)"
    assert page.title() == "double – tightship"
    assert all(url.startswith(server.url) for url in made.asked)


def test_a_new_version_is_tried_promoted_and_taken_back_with_the_administrator_s_key(
    server: LiveServer, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = visit().open(server, "double")
    page.click("text=Try a new version")
    page.set_input_files("#ship", package(tmp_path, "double", "2", twice=True))
    page.click("text=Start the rollout")
    page.fill("#key-field", "ts_nobody_knows")
    page.click("text=Use this key")
    page.wait_for_selector("dialog .note")
    assert "not known here" in page.locator("dialog .note").inner_text()
    page.fill("#key-field", server.admin_key)
    page.click("text=Use this key")
    page.wait_for_selector(".steps .now")
    assert page.locator(".steps b").all_inner_texts() == ["1 %", "5 %", "25 %", "100 %"]
    page.click("text=Promote version 2 now")
    page.wait_for_selector("text=Version 2 answers all requests")
    page.click("text=Go back to version 1")
    page.wait_for_selector("text=Version 1 answers all requests")
    status, answer = server.infer("double", [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}])
    assert (status, answer["model_version"]) == (200, "1")


def test_requests_appear_in_the_charts(server: LiveServer, visit: Callable[..., Visit]) -> None:
    page = visit().open(server, "letters")
    for _ in range(20):
        server.get("/v2/models/letters/infer", b"abc", {"content-type": "text/plain"})
    playwright.expect(page.locator(".chart .now").first).to_have_text(re.compile("[1-9]"))
    playwright.expect(page.locator(".chart path.s1:not(.area)").first).to_have_attribute("d", re.compile("M.+L.+L"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 900, 1600])
def test_nothing_is_wider_than_the_screen(
    server: LiveServer, visit: Callable[..., Visit], width: int, scheme: str
) -> None:
    made = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for model in ("", "shades", "double"):
        page = made.open(server, model)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 26)"
    assert dark == (scheme == "dark")


def test_a_page_for_nobody_asks_for_a_key_and_shows_when_the_server_is_gone(
    tmp_path: Path, visit: Callable[..., Visit]
) -> None:
    with serving(tmp_path, [package(tmp_path, "double")], "--no-grpc") as live:
        secret = add_key(live.state, "reader", ("infer",)).key
        page = visit().page
        page.goto(live.url)
        page.wait_for_selector("dialog")
        assert "A key is needed" in page.locator("main").inner_text()
        page.fill("#key-field", secret)
        page.click("text=Use this key")
        page.wait_for_selector(".model")
        page.goto(f"{live.url}/#/model/double")
        page.click("text=Show the report")
        page.frame_locator("iframe").locator("#said").wait_for()
        live.stop()
        page.wait_for_selector("#banner:visible")
        assert "does not answer" in page.locator("#banner").inner_text()


class Site(SimpleHTTPRequestHandler):
    """Another site's page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>hello")

    def log_message(self, format: str, *words: object) -> None:
        """Say nothing."""


def test_a_page_whose_name_leads_to_this_machine_learns_nothing_and_pages_elsewhere_cannot_ask(
    server: LiveServer, visit: Callable[..., Visit]
) -> None:
    page = visit().page
    assert page.goto(f"http://evil.example:{server.http_port}/").status == 421
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    page.goto(f"http://evil.example:{site.server_port}/")
    text = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
    ask = """async ([url, body]) => (await fetch(url, {method: 'POST', mode: 'no-cors', body})).type"""
    answers = []
    page.on("response", lambda answer: answers.append(answer.status))
    page.evaluate(ask, [f"{server.url}/v2/models/double/infer", text])
    page.evaluate(ask, [f"http://evil.example:{server.http_port}/v2/models/double/infer", text])
    assert answers == [403, 421]
    site.shutdown()
