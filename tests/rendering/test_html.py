"""The report as one page."""

import html.parser
import re
from collections.abc import Callable

import pytest

from edgekit.measurement import Measurement
from edgekit.rendering.html import html as draw
from edgekit.report import CandidateReport, Report

VOID = {"meta", "br", "link", "img", "hr", "input"}
EVIL = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and keeps what is needed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "

    def words(self) -> str:
        return " ".join(self.text.split())


def test_the_page_is_valid_and_complete(sample: Callable[..., Report]) -> None:
    """Tags close in order; verdict, targets, candidates, gates, stages, splits, environment
    and notes are there.
    """
    report = sample()
    page = Page(draw(report)).words()
    for target in report.targets:
        assert target.title in page
        assert all(note in page for note in target.notes)
        assert all(row.scheme in page for row in target.candidates)
        assert all(
            warning in page
            for row in target.candidates
            for warning in row.warnings
        )
    assert all(stage.name in page for stage in report.stages)
    for word in (
        "Fails: coral-edgetpu",
        "at most 2.00 pt",
        "2.27 to 2.36",
        "96.8 to 99.2",
        "77,850 to 20,010 (74 % less)",
        "channels of 6 layers",
        "1f1f1f",
        "Intel(R) Xeon(R)",
    ):
        assert word in page


def test_nothing_comes_from_elsewhere(sample: Callable[..., Report]) -> None:
    """No address, no script, no import, no linked file; links lead to places on the page
    that exist.
    """
    text = draw(sample())
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|<script|<link|<img|<iframe| src=", text
    )
    page = Page(text)
    anchors = {
        attributes["id"] for _, attributes in page.tags if "id" in attributes
    }
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 4
    assert all(
        link is not None and link.removeprefix("#") in anchors for link in links
    )
    assert "default-src 'none'" in text


def test_text_from_outside_is_escaped_everywhere(
    sample: Callable[..., Report],
) -> None:
    """A hostile title, name, place, reason, note or version is shown as text."""
    target = sample().targets[0]
    bad = Measurement(
        name="accuracy",
        value=0.9,
        low=0.8,
        high=0.95,
        unit=EVIL,
        where=EVIL,
        how=EVIL,
    )
    timed = Measurement(
        name="speedup", value=2, unit=EVIL, where=EVIL, how=EVIL
    )
    row = CandidateReport(
        scheme=EVIL,
        status="raced",
        reason=EVIL,
        measurements=(bad, timed),
        warnings=(EVIL,),
        artifact=target.candidates[0].artifact,
    )
    gate = target.gates[0].model_copy(
        update={"where": EVIL, "why": EVIL, "required": False}
    )
    hostile = target.model_copy(
        update={
            "name": EVIL,
            "title": EVIL,
            "format": EVIL,
            "winner": EVIL,
            "chosen": EVIL,
            "candidates": (row,),
            "gates": (gate,),
            "notes": (EVIL,),
        }
    )
    stage = (
        sample()
        .stages[0]
        .model_copy(
            update={
                "name": EVIL,
                "notes": {
                    EVIL: EVIL,
                    "parts": {
                        EVIL: {"parameters": [2, 1], "channels": {EVIL: [2, 1]}}
                    },
                },
            }
        )
    )
    report = sample(
        recipe={"name": EVIL, "title": EVIL, "model": EVIL, "task": EVIL},
        targets=(hostile,),
        stages=(stage,),
        edgekit=EVIL,
        started=EVIL,
        task={
            "name": EVIL,
            "splits": {EVIL: {"samples": EVIL, "sha256": EVIL}},
        },
        environment={EVIL: EVIL},
    )
    text = draw(report)
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("</style>") == 1
    assert not any("onerror" in attributes for _, attributes in Page(text).tags)


def test_nothing_unmeasured_looks_like_a_pass(
    sample: Callable[..., Report],
) -> None:
    """The word unmeasured never has the colour of a pass, in figures, gates, tables or the
    banner.
    """
    report = sample(targets=(sample().targets[3],), verdict="unmeasured")
    text = draw(report)
    assert 'class="banner unmeasured"' in text
    assert 'class="pill unmeasured">unmeasured' in text
    assert not re.search(r'class="[^"]*\bpass\b[^"]*">\s*unmeasured', text)
    assert re.search(r'class="num none">\s*unmeasured', text)
    assert "not required: no NVIDIA GPU at this host" in text
    assert "speedup unmeasured" in Page(text).words()


def test_a_number_measured_elsewhere_is_labelled(
    sample: Callable[..., Report],
) -> None:
    """The places are shown under the figures, in the gates and by letter in the table."""
    text = Page(draw(sample(targets=(sample().targets[3],)))).words()
    assert (
        "a measured at local: onnxruntime 1.31.1, optimizations off, on the Q/DQ graph"
        in text
    )
    assert "b measured at tensorrt_rtx 1.7.1" in text
    assert "the engine was not run" in text
    one = Page(draw(sample(targets=(sample().targets[0],)))).words()
    assert "All measured at local: onnxruntime 1.31.1, 1 thread" in one


def test_plots_are_drawn_of_measured_numbers(
    sample: Callable[..., Report],
) -> None:
    """Three plots if files were timed, one and a reason if not, none if no file was built."""
    report = sample()

    def pictures(index: int) -> int:
        return draw(sample(targets=(report.targets[index],), stages=())).count(
            "<svg"
        )

    assert [pictures(index) for index in range(4)] == [3, 3, 0, 1]
    assert (
        "unmeasured: no NVIDIA GPU at this host"
        in Page(draw(sample(targets=(report.targets[3],)))).words()
    )


@pytest.mark.parametrize("metric", ["top1", "negative_mse"])
def test_scores_keep_their_scale(
    sample: Callable[..., Report], metric: str
) -> None:
    """Percent for shares only."""
    assert ("98.4 %" in draw(sample(task={"metric": metric}))) == (
        metric == "top1"
    )


def test_an_empty_report_is_drawn(sample: Callable[..., Report]) -> None:
    """No target, no stage, no task, no environment."""
    assert (
        "No target was run."
        in Page(
            draw(
                sample(
                    targets=(),
                    stages=(),
                    task={},
                    environment={},
                    recipe={},
                    started="",
                )
            )
        ).words()
    )


def test_a_missing_split_is_shown(sample: Callable[..., Report]) -> None:
    """Training data that a task does not have are shown as none."""
    assert (
        "train none"
        in Page(draw(sample(task={"splits": {"train": None}}))).words()
    )
