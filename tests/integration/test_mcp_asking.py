"""People are asked through the official client, where a gate wants one asked."""

import subprocess

import httpx
import pytest

from support.mcp_clients import ERAS, Connected, answering, over_http, said
from support.server import Server, clean_environment, command

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ERAS)]

ASKED = "git clean -fdx >/dev/null 2>&1; echo ran"


async def ask(client: Connected, code: str = ASKED) -> tuple[bool, str]:
    """Whether it ran, and what was said."""
    result = await client.call("run_code", code=code, language="bash", stdin="the input")
    return not result.is_error, said(result)


def approvals(server: Server, agent: str) -> list[dict[str, object]]:
    url = f"{server.url}/api/approvals"
    with httpx.Client(trust_env=False) as http:
        found: list[dict[str, object]] = http.get(url, params={"agent_id": agent}).json()
    return found


async def test_yes_runs_what_was_shown_once(server: Server, era: str) -> None:
    agent, asked = f"yes-{era}", []
    person = answering("accept", asked, comment="go on")
    async with over_http(server.url, era, person, f"?agent_id={agent}") as client:
        ran, text = await ask(client)
        assert ran, text
        assert "ran\n" in text
        (shown,) = asked
        for part in (ASKED, "Throws away work", "bash program", agent, "the input"):
            assert part in shown
        (kept,) = approvals(server, agent)
        assert (kept["state"], kept["comment"]) == ("used", "go on")
        assert kept["answered_by"] == "the user of mcp (MCP)"
        assert (await ask(client))[0]
        assert len(asked) == 2  # a yes is for one execution
        history = await client.data("history")
        assert history["executions"][0]["outcome"] == "success"


async def test_no_is_a_no(server: Server, era: str) -> None:
    agent, asked = f"no-{era}", []
    person = answering("decline", asked)
    async with over_http(server.url, era, person, f"?agent_id={agent}") as client:
        ran, text = await ask(client)
        assert not ran
        assert "Approval denied" in text
        assert "the user of mcp (MCP) said no" in text
        assert [each["state"] for each in approvals(server, agent)] == ["denied"]
        assert not (await ask(client))[0]
        assert len(asked) == 1  # a no stands, and the person is left in peace


async def test_no_answer_leaves_it_pending(server: Server, era: str) -> None:
    agent, asked = f"cancel-{era}", []
    person = answering("cancel", asked)
    async with over_http(server.url, era, person, f"?agent_id={agent}") as client:
        ran, text = await ask(client)
        assert not ran
        (kept,) = approvals(server, agent)
        assert kept["state"] == "pending"
        assert f"mulligan approvals show|approve|deny {kept['id']}" in text
        assert len(asked) == 1


async def test_without_the_capability_a_person_answers_elsewhere(server: Server, era: str) -> None:
    agent = f"none-{era}"
    async with over_http(server.url, era, None, f"?agent_id={agent}") as client:
        ran, text = await ask(client)
        assert not ran
        (kept,) = approvals(server, agent)
        assert str(kept["id"]) in text
        assert "make exactly the same call again" in text
        done = subprocess.run(
            command("approvals", "approve", str(kept["id"]), "--server", server.url),
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (await ask(client, f"{ASKED} "))[0] is False  # another program is another question
        ran, text = await ask(client)
        assert ran, text


async def test_an_answer_s_later_block_is_asked_about_and_earlier_ones_run_once(
    server: Server, era: str
) -> None:
    agent, asked = f"answer-{era}", []
    person = answering("accept", asked)
    answer = (
        "Run this:\n\n```bash\necho once >> log\n```\n\n"
        f"```bash\n{ASKED}\n```\n\n```bash\ngit clean -fdx; wc -l < log\n```\n"
    )
    async with over_http(server.url, era, person, f"?agent_id={agent}") as client:
        done = await client.data("run_answer", answer=answer, threshold=0.3)
        blocks = done["blocks"]
        assert [each["state"] for each in blocks] == ["ran", "ran", "ran"], done
        assert blocks[2]["execution"]["stdout"]["text"] == "1\n"
        assert len(asked) == 2
        ran = [each["execution"]["execution_id"] for each in blocks]
        listed = (await client.data("history"))["executions"]
        success = [each["execution_id"] for each in listed if each["outcome"] == "success"]
        assert success[::-1] == ran


async def test_a_no_to_a_block_leaves_the_others_told(server: Server, era: str) -> None:
    asked: list[str] = []
    person = answering("decline", asked)
    answer = f"Run this:\n\n```bash\necho one\n```\n\n```bash\n{ASKED}\n```\n\n```bash\nid\n```\n"
    async with over_http(server.url, era, person, f"?agent_id=refuses-{era}") as client:
        blocks = (await client.data("run_answer", answer=answer, threshold=0.3))["blocks"]
    assert [each["state"] for each in blocks] == ["ran", "refused", "not run"]
    assert "said no" in blocks[1]["error"]
    assert blocks[0]["execution"]["stdout"]["text"] == "one\n"
    assert len(asked) == 1


async def test_what_is_shown_hides_nothing(server: Server, era: str) -> None:
    asked: list[str] = []
    code = "git clean -fdx # \u202egpj.evil\u202c ``` \x1b[8m ; true"
    person = answering("decline", asked)
    async with over_http(server.url, era, person, f"?agent_id=hides-{era}") as client:
        await ask(client, code)
    (shown,) = asked
    assert "````\ngit clean -fdx # \\u202egpj.evil\\u202c ``` \\x1b[8m ; true\n````" in shown
