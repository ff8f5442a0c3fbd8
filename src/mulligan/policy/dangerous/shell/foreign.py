"""Perl, Ruby, PHP, Lua, awk and PowerShell code: read for what it starts, by its words.

There is no parser for these; strings handed to functions that start a shell are judged as shell
scripts, and a network connection together with such a function counts as a shell on a socket.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.findings import Place
from mulligan.policy.dangerous.paths import canonical
from mulligan.policy.dangerous.values import Text

if TYPE_CHECKING:
    from mulligan.policy.dangerous.findings import Source
    from mulligan.policy.dangerous.judgement import Judgement

_SOCKETS = re.compile(
    r"fsockopen|pfsockopen|stream_socket_client|socket_create|socket_connect|IO::Socket|use Socket|"
    r"TCPSocket|TCPServer|UDPSocket|require\s*\(?['\"]socket|/inet/(?:tcp|udp)/|Net\.Sockets|"
    r"\[\s*socket\s+\S+\s+\d|socket\.tcp|luasocket|java\.net\.Socket|rsocket|sockaddr_in|"
    r"using Sockets|gen_tcp|Java\.type\(.java\.net|\bnet\.(?:Dial|Listen)\w*\s*\(|\bsockaddr\b|"
    r"\bsocket\s*\(\s*(?:AF|PF)_INET|\bnew\s+(?:Server)?Socket\s*\(",
    re.IGNORECASE,
)
_STARTS = re.compile(
    r"\b(?:exec|system|popen|popen2|popen3|shell_exec|passthru|proc_open|pcntl_exec|spawn|"
    r"os\.execute|io\.popen|iex|invoke-expression|fork|getline|eval|ProcessBuilder|"
    r"exec\.Command|execl[pe]?|execv[pe]{0,2}|dup2|getRuntime)\b|`|<&\d|\|&",
    re.IGNORECASE,
)
_SHELL_STRINGS = re.compile(
    r"(?:\b(?:system|exec|popen|shell_exec|passthru|proc_open|pcntl_exec|spawn|execute|capture2e?|"
    r"capture3|exec\.Command|do shell script|qx|eval)\b|%x|\|\s*getline|open)\s*"
    r"[\[({]?\s*(?:[^'\"`\n]{0,40}?,\s*)?"
    r"(?:\"((?:[^\"\\]|\\.){1,2000})\"|'((?:[^'\\]|\\.){1,2000})'|[{(\[/]([^})\]]{1,500})[})\]/])",
    re.IGNORECASE,
)
_SHELL_WORDS = re.compile(
    r"\b(?:system|exec|spawn|popen|exec\.Command|execl[pe]?)\b\s*\(?\s*((?:[\"'][^\"'\n]{0,200}[\"']\s*,\s*){1,20}[\"'][^\"'\n]{0,200}[\"'])"
)
_BACKTICKS = re.compile(r"`([^`]{1,2000})`")
_PIPED = re.compile(
    r"\"((?:[^\"\\]|\\.){1,500})\"\s*\|\s*getline|\|\s*\"((?:[^\"\\]|\\.){1,500})\""
)
_DELETES = re.compile(
    r"(?:unlink|rmtree|remove_tree|rm_rf|rm_r|remove_entry_secure|File\.delete|rmdir|remove|"
    r"Remove-Item)\b[\s(]*(?:-\w+\s+)*(?:glob\s*\(?\s*)?['\"<]?([/~][^'\">\s,)]*)",
    re.IGNORECASE,
)
_READS = re.compile(
    r"(?:File\.read|open|readfile|file_get_contents|io\.open|IO\.read|File\.open|file|fopen|"
    r"Get-Content|getline\s*\w*\s*<)[\s(]*(?:\$?\w+\s*,\s*)?['\"]\s*<?\s*([/~][^'\"\s]*)",
    re.IGNORECASE,
)
_FORKS = re.compile(
    r"fork\s+while|while\s*\(?\s*(?:1|true|fork)\s*\)?\s*(?:\{|;|do)?\s*(?:pcntl_)?fork|"
    r"(?:loop|while true)\s*(?:do|\{)\s*(?:Process\.)?fork|fork\s*\{\s*\$0",
    re.IGNORECASE,
)
_FETCHED = re.compile(
    r"DownloadString|DownloadFile|Invoke-WebRequest|\biwr\b|\bcurl\b|Net::HTTP|open-uri|URI\.open|"
    r"LWP::|file_get_contents\s*\(\s*['\"]https?:|LWP::Simple|HTTP::Tiny|socket\.http",
    re.IGNORECASE,
)
_EVALUATES = re.compile(r"\b(?:iex|invoke-expression|eval|load|loadstring|instance_eval|assert)\b",
                        re.IGNORECASE)  # fmt: skip
_FETCHED_AND_RUN = re.compile(
    r"\b(?:system|exec|passthru|shell_exec|popen)\s*\(?\s*(?:file_get_contents|get|curl_exec|open)\s*\("
    r"\s*['\"](?:https?|ftp)://",
    re.IGNORECASE,
)
_LONGEST: Final = 20_000


def scan(judgement: Judgement, source: Source) -> None:
    """Judges code in a language that is not parsed."""
    text = source.data[:_LONGEST].decode(errors="replace")
    place = Place(source, 0, len(source.data))
    judgement.budget.step(len(text) // 16 + 1)
    if _SOCKETS.search(text) and _STARTS.search(text):
        judgement.effect("shell-on-socket", place)
    if _FORKS.search(text):
        judgement.effect("fork-bomb", place)
    if (_FETCHED.search(text) and _EVALUATES.search(text)) or _FETCHED_AND_RUN.search(text):
        flags = frozenset({"program"})
        judgement.effect("run", place, tags=frozenset({"network"}), flags=flags)
    for match in _DELETES.finditer(text):
        flags = frozenset({"recursive"})
        judgement.effect("delete", place, canonical(_home(match[1])), flags=flags)
    for match in _READS.finditer(text):
        judgement.effect("read", place, canonical(_home(match[1])))
    for match in list(_SHELL_WORDS.finditer(text))[:50]:
        script = " ".join(part.strip(" \t'\"") for part in match[1].split(","))
        judgement.runs(Text(script), "bash", place)
    for pattern in (_SHELL_STRINGS, _BACKTICKS, _PIPED):
        for match in list(pattern.finditer(text))[:50]:
            script = next((group for group in match.groups() if group), "")
            script = re.sub(r"['\"]\s*,\s*['\"]", " ", script).replace('\\"', '"')
            judgement.runs(Text(script), "bash", place)


def _home(path: str) -> str:
    return "\ue001" + path[1:] if path.startswith("~") else path
