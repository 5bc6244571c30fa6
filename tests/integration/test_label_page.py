"""People label on the page, in a real browser: by keyboard, blind to each other, and whatever an item holds."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.data_governance.labelling.agreement import Given, summary
from tests import servers
from tests.harness import platform
from tests.integration.chromium import Browser, Chromium, chromium
from tests.integration.gateway_app import RunningGateway, running_gateway
from tests.integration.labelling_app import BASE, Person, add_items, insert_items, make_project

ATTACK = '<script>window.hacked=1</script><img src=x onerror="window.hacked=2"> & <b>bold</b>'


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    url = servers.new_database(postgres.url, "test_label_page", template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as running:
        yield running
    servers.drop_database(postgres.url, "test_label_page")


@pytest.fixture(scope="module")
def browsers() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page(browsers: Chromium) -> Browser:
    """An English window, for all tests: nobody is signed in at first."""
    return browsers.window()


@pytest.fixture(scope="module")
def chinese(browsers: Chromium) -> Browser:
    return browsers.window("zh-CN")


def enter(browser: Browser, url: str, project: str, person: Person) -> None:
    browser.open(f"{url}/label/{project}")
    browser.run("sessionStorage.clear()")
    browser.open(f"{url}/label/{project}")
    browser.until("document.querySelector('#token')")
    browser.type("#token", person.token)
    browser.press("enter")
    browser.until("document.querySelector('#text, #done')")


def sent(browser: Browser) -> None:
    browser.until("document.querySelector('#sent').textContent === ''", "every label to be delivered")


def items(gateway: RunningGateway, project: str) -> list[dict[str, Any]]:
    with gateway.http() as owner:
        found: list[dict[str, Any]] = owner.get(f"{BASE}/{project}/items", params={"limit": 100}).json()[
            "data"
        ]
    return found


def shot(browser: Browser, name: str) -> None:
    """For people who look at the page: kept in the folder LABEL_SCREENSHOTS, where one is named."""
    if folder := os.environ.get("LABEL_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}.png")


def test_two_labellers_and_an_adjudicator_finish_a_project_by_keyboard(
    gateway: RunningGateway, page: Browser, chinese: Browser
) -> None:
    texts = ["物流很快，非常满意", "The box was broken", "客服一直不回复", "Works as it should", "一般般"]
    project = make_project(
        gateway, texts, name="reviews", labels_per_item=2, guidelines="Judge the whole review.\n按整体评价。"
    )
    li, wang = Person(gateway, project, "li"), Person(gateway, project, "wang")
    judge = Person(gateway, project, "judge", adjudicates=True)
    for browser, person, keys, word in ((chinese, li, "11122", "提交"), (page, wang, "11212", "Submit")):
        enter(browser, gateway.url, project, person)
        shot(browser, f"label-{person.id}")
        assert word in browser.text("#submit")
        for text, key in zip(texts, keys, strict=True):
            browser.until(f"document.querySelector('#text')?.innerText === {text!r}", text)
            browser.press(key, "enter")
        browser.until("document.querySelector('#done')")
        sent(browser)
    states = [one["state"] for one in items(gateway, project)]
    assert states == ["done", "done", "adjudication", "adjudication", "done"]
    enter(page, gateway.url, project, judge)
    page.click("#tab-adjudication")
    page.until("document.querySelectorAll('#proposals button').length === 2")
    shot(page, "adjudicate")
    assert "li" not in page.text("#proposals").split()
    offered = page.run("return [...document.querySelectorAll('#proposals .text')].map((e) => e.innerText)")
    page.press(str(offered.index("bad") + 1), "enter")
    page.until(f"document.querySelector('#text')?.innerText === {texts[3]!r}")
    page.press("w", "1", "enter")
    page.until("document.querySelector('#done')")
    sent(page)
    done = items(gateway, project)
    assert [one["final"]["label"] for one in done] == ["good", "good", "bad", "good", "bad"]
    assert [one["final_by"] for one in done][2:4] == ["adjudicator", "adjudicator"]
    given = [
        Given(one["id"], label["labeller"], label["value"])
        for one in done
        for label in one["labels"]
        if label["role"] == "label"
    ]
    # Observed 3/5, expected (3*3 + 2*2)/25.
    told = summary(given, {}, "classification")
    assert (told["measure"], told["value"]) == ("cohen_kappa", pytest.approx((0.6 - 0.52) / (1 - 0.52)))


def test_what_an_item_holds_is_text_and_never_runs(gateway: RunningGateway, page: Browser) -> None:
    project = make_project(
        gateway, [], name=ATTACK.replace("/", ""), guidelines=ATTACK, labels=["<i>x</i>", "y"]
    )
    data = [{"text": ATTACK}, {"messages": [{"role": ATTACK, "content": ATTACK}]}]
    add_items(gateway, project, data)
    li = Person(gateway, project, ATTACK[:60])
    enter(page, gateway.url, project, li)
    assert page.run("return document.querySelector('#text').innerText") == ATTACK
    page.press("1", "enter")
    page.until("document.querySelector('.turn')")
    page.press("2", "enter")
    page.until("document.querySelector('#done')")
    sent(page)
    assert page.run("return window.hacked ?? null") is None
    assert (
        page.run("return document.querySelectorAll('img, script:not(:last-of-type), main b i').length") == 0
    )
    assert [one["final"]["label"] for one in items(gateway, project)] == ["<i>x</i>", "y"]


def test_the_policy_lets_no_script_run_but_the_pages_own(gateway: RunningGateway) -> None:
    answer = httpx.get(f"{gateway.url}/label/any-project")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=|https?://", answer.text)
    assert httpx.get(f"{gateway.url}/label/a/b").status_code == 401


def test_spans_are_marked_by_keyboard_and_by_mouse_in_code_points(
    gateway: RunningGateway, page: Browser
) -> None:
    project = make_project(gateway, [], task="spans", labels=["人", "地"], name="spans")
    add_items(gateway, project, [{"text": "😀王芳住在北京。"}])
    enter(page, gateway.url, project, Person(gateway, project, "li"))
    page.press("right")
    page.press("right", "right", holding="shift")
    page.press("1")
    page.run(
        "const at = [...document.querySelectorAll('#text [data-start]')].find((e) => e.innerText.includes('北京'));"
        "const node = at.firstChild, from = node.data.indexOf('北京');"
        "at.dispatchEvent(new MouseEvent('mousedown', {bubbles: true}));"
        "getSelection().setBaseAndExtent(node, from + 2, node, from);"
    )
    page.press("2")
    shot(page, "spans")
    page.press("enter")
    page.until("document.querySelector('#done')")
    sent(page)
    (item,) = items(gateway, project)
    assert item["final"] == {
        "spans": [{"start": 1, "end": 3, "label": "人"}, {"start": 5, "end": 7, "label": "地"}]
    }


def test_undo_brings_the_last_one_back_to_be_changed_and_skip_passes_over(
    gateway: RunningGateway, page: Browser
) -> None:
    project = make_project(gateway, ["one", "two", "three"], name="undo")
    enter(page, gateway.url, project, Person(gateway, project, "li"))
    page.press("1", "enter")
    page.until("document.querySelector('#text')?.innerText === 'two'")
    page.press("u")
    page.until("document.querySelector('#text')?.innerText === 'one'")
    page.press("2", "enter")
    page.until("document.querySelector('#text')?.innerText === 'two'")
    page.press("s")
    page.until("document.querySelector('#text')?.innerText === 'three'")
    page.press("1", "enter")
    page.until("document.querySelector('#done')")
    sent(page)
    found = items(gateway, project)
    assert [one["final"] and one["final"]["label"] for one in found] == ["bad", None, "good"]
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO data_governance.label_item (id, tenant_id, project_id, position, row_id, data, needed)"
            " VALUES ('item-late', %s, %s, 9, 'row-9', '{\"text\": \"late\"}', 1)",
            (gateway.tenants["acme"], project),
        )
    page.until("document.querySelector('#text')?.innerText === 'late'", "what is new to come by itself")


def test_preferences_several_labels_and_texts_can_be_given(gateway: RunningGateway, page: Browser) -> None:
    pairs = make_project(gateway, [], task="preference", labels=[], name="pairs")
    add_items(gateway, pairs, [{"text": "Which?", "a": "This <b>", "b": "That"}] * 2)
    enter(page, gateway.url, pairs, Person(gateway, pairs, "li"))
    shot(page, "pairs")
    page.press("2", "enter", "3", "enter")
    page.until("document.querySelector('#done')")
    sent(page)
    assert [one["final"]["choice"] for one in items(gateway, pairs)] == ["b", "tie"]
    several = make_project(gateway, ["x"], multiple=True, labels=["a", "b", "c"], name="several")
    enter(page, gateway.url, several, Person(gateway, several, "li"))
    page.press("3", "1", "2", "2", " ")
    page.until("document.querySelector('#done')")
    sent(page)
    assert items(gateway, several)[0]["final"] == {"labels": ["a", "c"]}
    answers = make_project(gateway, ["为什么？"], task="answer", labels=[], name="answers")
    enter(page, gateway.url, answers, Person(gateway, answers, "li"))
    page.type("#field", "sure, 因为 1")
    page.press("enter", holding="control")
    page.until("document.querySelector('#done')")
    sent(page)
    assert items(gateway, answers)[0]["final"] == {"text": "sure, 因为 1"}


def test_a_wrong_token_is_told_and_lets_nobody_in(gateway: RunningGateway, page: Browser) -> None:
    project = make_project(gateway, ["one"], name="mine")
    other = make_project(gateway, ["secret"], name="theirs")
    page.open(f"{gateway.url}/label/{other}")
    for token in ("nonsense", Person(gateway, project, "li").token):
        page.until("document.querySelector('#token')")
        page.type("#token", token)
        page.press("enter")
        page.until("document.querySelector('#wrong')?.textContent")
    assert "secret" not in page.text("body")


def test_labels_given_while_the_gateway_is_killed_are_stored_when_it_is_back(
    postgres: servers.RunningServer, valkey: servers.RunningServer, page: Browser
) -> None:
    database = servers.new_database(postgres.url, "test_label_killed", template="heliu_template")
    with platform(database, valkey.url) as harness:
        url = harness.start_gateway()
        headers = {"authorization": f"Bearer {harness.key()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as owner:
            spec = {"name": "killed", "task": "classification", "labels": ["good", "bad"]}
            project = owner.post(BASE, json=spec).json()["id"]
            with harness.db.transaction(harness.tenant) as c:
                insert_items(c, harness.tenant, project, [{"text": f"text {n}"} for n in range(4)], 1)
            made = owner.post(f"{BASE}/{project}/labellers", json={"name": "li"}).json()
        page.open(f"{url}/label/{project}")
        page.run(
            "sessionStorage.setItem(`heliu.label.${arguments[0]}.token`, arguments[1])",
            project,
            made["token"],
        )
        page.open(f"{url}/label/{project}")
        page.until("document.querySelector('#text')?.innerText === 'text 0'")
        harness.processes[-1].kill()
        for number in range(3):
            page.until(f"document.querySelector('#text')?.innerText === 'text {number}'")
            page.press("2", "enter")
        assert page.text("#sent") == "3 to be sent"
        harness.start("gateway")
        page.until("document.querySelector('#text')?.innerText === 'text 3'")
        page.press("1", "enter")
        page.until("document.querySelector('#done')")
        sent(page)
        with harness.db.transaction(harness.tenant) as c:
            rows = c.execute(
                "SELECT final ->> 'label' AS label FROM data_governance.label_item ORDER BY position"
            ).fetchall()
            events = c.execute("SELECT count(*) AS n FROM data_governance.label_event").fetchone()
    servers.drop_database(postgres.url, "test_label_killed")
    assert [row["label"] for row in rows] == ["bad", "bad", "bad", "good"]
    assert events == {"n": 4}
