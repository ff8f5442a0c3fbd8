"""What decides how sure we are that a block is meant to be run: one table.

A block's confidence is the sum of the weights of the features it has, held within 0 and 1, and no
more than the lowest ceiling among them. The weights are set by hand, with one half of the labelled
answers in ``tests/data/answers`` to look at; ``python -m bench.policy_extraction`` measures on both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Feature:
    """One row of the table.

    Attributes:
        weight: added to the confidence.
        ceiling: most the confidence can be with it.
        meaning: what it is and why it counts.
    """

    weight: float
    ceiling: float
    meaning: str


FEATURES: Final[dict[str, Feature]] = {
    # The language
    "named_language": Feature(0.45, 1.0, "the info string names a language we run"),
    "guessed_language": Feature(0.25, 1.0, "no info string; the code looks like one we run"),
    "transcript": Feature(0.40, 1.0, "commands of a recorded session"),
    "inline": Feature(0.40, 1.0, "a command on a line of its own, outside any block"),
    "other_language": Feature(0.0, 0.1, "a language we do not run, or none"),
    "data": Feature(0.0, 0.1, "JSON, a diff or a table, whatever the info string says"),
    "output": Feature(0.0, 0.15, "a traceback, a log or a listing: what a program printed"),
    "marked_not_to_run": Feature(0.0, 0.1, "attributes like `ignore`, `no_run`, `compile_fail`"),
    "names_a_file": Feature(
        -0.25, 1.0, "the info string or first line names the file it belongs to"
    ),
    # The program
    "whole_program": Feature(0.35, 1.0, "parses, uses no unknown names, and does something"),
    "commands": Feature(0.35, 1.0, "shell commands that parse and need nothing made up"),
    "shows_result": Feature(0.10, 1.0, "prints, asserts or writes what it found"),
    "only_definitions": Feature(-0.10, 0.55, "defines things and does nothing"),
    "unknown_names": Feature(-0.15, 0.5, "uses names it does not define: part of something"),
    "does_not_parse": Feature(-0.2, 0.3, "the language's grammar does not accept it"),
    "not_parsed": Feature(
        -0.1, 0.6, "too long to be looked into, or after 50,000 characters of code"
    ),
    "cut_off": Feature(-0.1, 0.4, "no closing fence: the answer ended within it"),
    "placeholders": Feature(-0.2, 0.4, "`your_api_key`, `<name>`, `path/to`, example domains"),
    "left_out": Feature(-0.2, 0.3, "`...` or a comment stands for code that is not there"),
    "empty": Feature(0.0, 0.0, "nothing but blanks and comments"),
    "waits_for_input": Feature(-0.2, 0.6, "asks a person at a keyboard"),
    "serves_forever": Feature(-0.3, 0.6, "a server or a window: does not end by itself"),
    "needs_outside": Feature(-0.25, 0.65, "network, credentials, databases: not in a VM"),
    "changes_a_machine": Feature(
        -0.25, 0.6, "installs or administers: meant for a reader's machine"
    ),
    "third_party": Feature(-0.03, 1.0, "imports what does not come with the language"),
    "usage_line": Feature(-0.2, 0.6, "calls a script or project that only the reader has"),
    # What is said around it
    "asked_to_run": Feature(0.25, 1.0, "run this, let me compute, I will check"),
    "forbidden": Feature(0.0, 0.05, "do not run, never execute, for reference only"),
    "introduced_as_program": Feature(0.10, 1.0, "here is a script that, this program computes"),
    "introduced_as_output": Feature(0.0, 0.15, "output, prints, you will see: of what came before"),
    "introduced_as_example": Feature(
        -0.25, 0.65, "for example, looks like, the syntax is, a pattern"
    ),
    "introduced_as_wrong": Feature(-0.3, 0.4, "the bug, before, vulnerable, what you wrote"),
    "introduced_as_edit": Feature(-0.35, 0.5, "add to, replace, save as, in your file"),
    "for_the_reader": Feature(-0.2, 0.6, "in your terminal, on your machine, once installed"),
    "one_of_languages": Feature(
        -0.15, 0.65, "headed by a language's name alone, beside blocks in other languages"
    ),
    "alternative": Feature(-0.15, 0.65, "another way to do what an earlier block does"),
    "hypothetical": Feature(-0.2, 0.65, "would, could, if you wanted to"),
    "only_block": Feature(0.05, 1.0, "the only block of the answer"),
    "quoted": Feature(-0.1, 1.0, "inside a block quote"),
    # The answer
    "draft": Feature(0.0, 0.1, "inside `<think>`: not part of the answer"),
    "unfollowed": Feature(0.0, 0.0, "the answer's structure was too much to follow"),
    "too_many": Feature(0.0, 0.0, "after the first 200 blocks of an answer"),
}


def phrases(*words: str) -> re.Pattern[str]:
    """Any of some phrases, at word boundaries, in any case.

    A space is any blanks; apostrophes are straight, as ``plain`` makes them.
    """
    joined = "|".join(word.replace(" ", r"\s+") for word in words)
    return re.compile(rf"(?<![\w-])(?:{joined})(?!\w)", re.IGNORECASE)


def plain(prose: str) -> str:
    """``prose`` with line ends and apostrophes in the form the phrases have."""
    return prose.replace("\r\n", "\n").replace("\r", "\n").replace("\u2019", "'")


_NOT: Final = r"(?:do not|don't|never|must not|mustn't|should not|shouldn't|avoid|please don't)"
_RUN: Final = r"(?:run|running|execute|executing|try running|launch|paste)"

FORBIDDEN: Final = phrases(
    rf"{_NOT} (?:\w+ ){{0,3}}?(?:{_RUN}|try|use|do) (?:this|that|it|these|them|the|anything|any|either|code|in production)",
    rf"{_NOT} (?:actually |ever |just |blindly )?{_RUN}",
    r"(?:not|isn't|never) (?:meant|intended|supposed|safe) to (?:be )?(?:run|executed?)",
    r"(?:not|isn't|without) (?:be )?(?:run|executed?|running it|executing it)",
    r"for (?:reference|illustration|documentation|reading) only",
    r"(?:just|purely|only) (?:for )?(?:illustrative|an illustration|illustration|reference|to illustrate)",
    r"pseudo-?code",
    r"not runnable",
    r"(?:will|would|could|can) (?:destroy|wipe|erase|brick|crash)",
)

# Read in what comes before a block, its last paragraph and heading.
BEFORE: Final[dict[str, re.Pattern[str]]] = {
    "asked_to_run": phrases(
        r"(?:let me|let's|let us|i'll|i will|i'm going to|we can|we'll) (?:\w+ ){0,2}?"
        r"(?:run|execute|compute|calculate|check|verify|test|try|count|confirm|measure|simulate|see|find out|look|list|inspect|plot|analy[sz]e|start|create|write|generate|use|do)",
        r"(?:please |now |then |next |to check |first |and )?(?:run|execute) (?:this|the|it|these|that|the following)",
        r"(?:run|running|executing) (?:this|the following|it)",
        r"(?:try|test) (?:this|it|running)",
        r"(?:quick|sanity) (?:check|test|sanity check|experiment)",
        r"to (?:verify|check|confirm|test|prove) (?:this|that|it)",
    ),
    "introduced_as_program": phrases(
        r"(?:here's|here is|below is|this is|use|wrote|following is) (?:\w+[ -]){0,5}?"
        r"(?:script|program|solution|implementation|code|one-liner|test|version|command|snippet that|demo|benchmark|simulation)",
        r"(?:this|the following|the) (?:\w+ ){0,2}?(?:script|program|code|snippet|command|one-liner) (?:\w+ )?"
        r"(?:computes?|prints?|counts?|finds?|generates?|reads?|calculates?|shows?|lists?|sorts?|creates?|"
        r"writes?|simulates?|checks?|converts?|solves?|does|will|tests?|measures?|estimates?)",
        r"(?:complete|full|whole|runnable|working|self-contained|standalone) (?:\w+ ){0,2}?(?:example|script|program|code|solution|version|demo)",
    ),
    "introduced_as_output": phrases(
        r"(?:expected |sample |example |the |program |console |your |possible )?(?:output|result|results)(?: is| of \S+(?: \S+){0,4}| looks like| would be| should be| will be|s)?\s*:?\**\s*$",
        r"(?:prints?|printed|outputs?|produces?|produced|gives?|returns?|displays?|shows?|yields?)(?: something like| the following| this)?\s*:\**\s*$",
        r"(?:you'll|you will|you should|we|i) (?:see|get|got|saw|find)\b[^.\n]{0,60}:\s*$",
        r"(?:error|error message|traceback|stack trace|log|logs|warning)\s*(?:is|was|says|reads|below|like this)?\s*:\**\s*$",
        r"it (?:printed|said|failed with|returned)\b[^.\n]{0,60}",
    ),
    "introduced_as_example": phrases(
        r"for example", r"for instance", r"e\.g\.", r"such as", r"something like", r"looks? like",
        r"(?:general|basic|typical|usual|common|simplest) (?:\w+ )?(?:syntax|form|pattern|structure|usage|shape|idiom|skeleton|template|idea)",
        r"(?:the )?syntax (?:is|for|of)", r"(?:usage|example usage|syntax|signature|template|skeleton|outline|sketch)\s*:?\**\s*$",
        r"in general", r"conceptually", r"as a (?:sketch|template|starting point|reference)", r"imagine", r"suppose", r"consider",
        r"(?:is|are) (?:written|defined|declared|called|used) (?:like|as|with)", r"you (?:write|declare|call|define)",
    ),
    "introduced_as_wrong": phrases(
        r"(?:the |your )?(?:bug|bugs|problem|mistake|issue|culprit|vulnerability|offending (?:line|code)|broken|buggy|faulty|vulnerable|insecure|incorrect|wrong)(?: \w+){0,3}",
        r"before\s*:?\**\s*$", r"bad\s*:?\**\s*$", r"(?:your|the) (?:original|current|existing|old) (?:\w+ )?(?:code|version|function|script|loop|query|line|implementation)",
        r"instead of(?: this)?\s*:?\s*$", r"(?:you|they) (?:wrote|had|posted|have)", r"anti-?pattern", r"attack(?:er)?s?", r"malicious", r"exploit",
    ),
    "introduced_as_edit": phrases(
        r"(?:add|put|place|insert|paste|append|include|drop|copy|save|store) (?:this|these|the|it|that|a|an)\b(?: [\w-]+){0,6}? (?:to|in|into|as|at|inside|above|below|before|after|under|on)",
        r"(?:replace|change|update|modify|edit|rewrite|wrap|rename) (?:your|the|this|that|it|line|lines|these|its)",
        r"in (?:your )?`[\w./-]{1,80}`", r"(?:create|make|edit|open|save) (?:a |the |your |new )*(?:file|module)?\s*(?:called |named )?[`\"'][\w./-]{1,80}[`\"']", r"(?:file|module) (?:called|named) \W{0,3}[\w./-]{1,80}\.\w{1,4}\b",
        r"(?:to|in|into) your (?:\w+ ){0,2}(?:file|code|class|config|configuration|project|app|component|crontab|bashrc|\.bashrc|shell|settings|module|cargo\.toml|package\.json|test|tests|repo|codebase|ci)",
        r"`?[\w/-]{1,60}\.(?:py|js|rs|sh|ts|toml|json|ya?ml)`?\s*:?\**\s*$",
        r"the (?:change|fix|patch|diff) (?:is|looks|to|in)",
    ),
    "for_the_reader": phrases(
        r"(?:in|from|on|at) (?:your|a|the) (?:terminal|shell|machine|laptop|computer|command line|command prompt|host|server|browser|production|own|project(?:'s)? root|repo(?:sitory)? root|notebook)",
        r"(?:install|installing|installed|set up|setup|deploy|build and|log in|configure|configuration|prerequisites?|clone|upgrade|uninstall)",
        r"you(?:'ll| will)? (?:need|have) to", r"you can (?:then )?(?:run|start|call|invoke|use|install|launch|execute|do|also)", r"(?:start|launch|stop|restart) (?:the|your)",
        r"then run it with", r"run it (?:with|like|as|using|via)", r"usage", r"on (?:windows|macos|mac|ubuntu|debian|linux|fedora)\b",
    ),
    "alternative": phrases(
        r"alternatively", r"another (?:option|way|approach|variant)", r"or(?:,)? (?:if|with|using|as|in|even|simply|more)\b", r"equivalent(?:ly)?", r"the same (?:in|with|thing|idea)\b",
        r"if you prefer", r"for comparison", r"older versions?", r"a variant", r"option [2-9b-d]",
    ),
    "hypothetical": phrases(
        r"would (?:be|look|do|need|have|use|write|run|call|require)", r"could (?:be(?!\s*:)|look|do|use|also|write|call)", r"if you (?:want|wanted|need|ever|had|are|use|have)", r"might (?:be|look|use|want)", r"when you (?:want|need)", r"one would",
    ),
}  # fmt: skip

# Read in the first sentences after a block.
AFTER: Final[dict[str, re.Pattern[str]]] = {
    "asked_to_run": phrases(
        r"(?:please )?run (?:this|it|the (?:script|code|program|above|command))(?: and| now|,| to see|\.)",
        r"(?:let me|i'll|let's) (?:run|execute|check|wait|see|look)", r"once (?:it|this|that) (?:has )?(?:runs?|finishes|finished)",
        r"(?:after|when) (?:this|it|that) (?:runs|finishes|completes)",
    ),
    "introduced_as_edit": phrases(
        r"(?:save|put|place) (?:this|it|that) (?:as|in|to|under)", r"then (?:restart|reload|rebuild|redeploy|commit)", r"(?:replace|substitute|fill in) (?:the |your )",
    ),
    "introduced_as_wrong": phrases(
        r"(?:is|that's|this is) (?:wrong|broken|a bug|vulnerable|insecure|incorrect|bad)\b", r"this (?:fails|crashes|raises|panics|does not compile|doesn't compile|won't compile|deadlocks)",
    ),
}  # fmt: skip

ATTRIBUTES_NOT_TO_RUN: Final = frozenset(
    ("ignore", "no_run", "no-run", "norun", "noexec", "no-exec", "compile_fail", "should_panic")
    + ("skip", "eval=false", "exec=false", "run=false", "notest", "no_test", "output")
)

PLACEHOLDERS: Final = re.compile(
    r"\byour[_-][a-z]+(?:[_-][a-z]+)*"
    r"|\bmy[_-](?:\w+[_-])??(?:key|token|secret|password|bucket|host|server|database|db|domain|project|account|user|username|email"
    r"|app|repo|image|container|cluster|branch|script|package|website)\b(?![ \t]*(?:=[^=]|\())"
    r"|\bYOUR[_ -][A-Z]+|<[a-z][\w -]{0,20}?(?:your|name|id|key|token|path|host|user|file|url|port|password)[\w -]{0,20}>"
    r"|<your[^>\n]{0,40}>|\bpath/to/|\b(?:sk-|xxx+|XXX+)\b|\bREPLACE_ME\b|\bCHANGE_?ME\b|\bTODO\b"
    r"|(?<![@\w.-])(?:[\w-]{1,40}\.){0,3}example\.(?:com|org|net)\b|\buser@host\b|\bmyapp\b|\bmyproject\b"
    r"|\bfoo/bar/baz\b",
)
LEFT_OUT: Final = re.compile(
    r"^[ \t]*(?:\.\.\.|…)[ \t]*(?:#.*)?$|(?:\#|//|/\*|--)[ \t]*(?:\.\.\.|…)"
    r"|(?:\#|//|/\*)[^\n]{0,40}?(?:rest of (?:the |your |my )?(?:\w+ )?(?:code|script|program|function|class|method|implementation|logic|file|module|app|bot|game|main|body)\b|your (?:code|logic|implementation)|existing code|"
    r"(?:code|logic|implementation|stuff|work) (?:goes )?here|same as (?:before|above)|unchanged|omitted|as before)"
    r"|(?:\#|//|/\*)[ \t]*\W{0,3}(?:(?:the )?rest of|fill (?:this |it |these )?in)\b"
    r"|\(\s*(?:\.\.\.|…)\s*\)|\{\s*(?:\.\.\.|…)\s*\}|\bunimplemented!\(|\btodo!\(",
    re.MULTILINE | re.IGNORECASE,
)
WAITS: Final = re.compile(
    r"\binput\(|\bgetpass\(|\braw_input\(|\breadline\.question|\brl\.question|\bprompt\("
    r"|\bread -[a-z]*p|\bread_line\(&mut|\bselect \w+ in"
)
SERVES: Final = re.compile(
    r"\bapp\.run\(|\buvicorn\b|\bserve_forever\(|\.listen\(|\.mainloop\(|\bhttp\.server\b|\bplt\.show\("
    r"|\brun_polling\(|\bclient\.run\(|\bgunicorn\b|\bnpm (?:start|run dev)|\bstreamlit run|\bflask run"
    r"|\btail -f\b|\bwatch \b|\bTcpListener::bind|\bsetInterval\(|\bdocker compose up|\bpygame\b"
)
OUTSIDE: Final = re.compile(
    r"\brequests\.(?:get|post|put|patch|delete|Session)|\burllib\.request|\bhttpx\.|\baiohttp\b|\bfetch\(|\baxios\b"
    r"|\bos\.environ\[|\bos\.getenv\(|\bprocess\.env\.|\bboto3\b|\bpsycopg2?\b|\bpymysql\b|\bmysql\.connector|\bcreate_engine\("
    r"|\bredis\.|\bMongoClient|\bsmtplib\b|\bopenai\b|\banthropic\b|\bparamiko\b|\bselenium\b|\breqwest\b|\bcurl\b|\bwget\b"
    r"|\bssh\b|\bscp\b|\brsync\b|\baws \b|\bgcloud\b|\bkubectl\b|\bhelm\b|\bterraform\b|\bpsql\b|\bmysql\b|\bredis-cli\b"
    r"|\bimaplib\b|\bftplib\b|\bpyodbc\b|\bsqlalchemy\b|\bchannel\.send\("
)
MACHINE: Final = re.compile(
    r"(?:^|[;&|]|\bsudo )[ \t]*(?:sudo|apt(?:-get)?|yum|dnf|brew|pacman|apk|snap|pip3?|pipx|conda|npm (?:i|install|ci|init|publish)|npx|"
    r"yarn (?:add|install|global)|pnpm|cargo (?:install|add|new|init|publish)|rustup|gem|go install|poetry|uv (?:pip|add|sync|venv)|systemctl|service|docker|podman|crontab|"
    r"ufw|iptables|useradd|usermod|chown|mount|umount|git (?:clone|push|pull|commit|checkout|rebase|reset|add|remote|merge|config|init|switch|stash|fetch)|"
    r"python3? -m (?:pip|venv)|virtualenv|source |reboot|shutdown|choco|winget|make install|ssh-keygen|nvm|pyenv|export \w+=)(?!\w)",
    re.MULTILINE,
)
USAGE: Final = re.compile(
    r"^[ \t]*(?:python3?|node|bash|sh|deno|npx|pytest|cargo|make|\./)[ \t]*(?:-[a-z]+[ \t]+)*"
    r"(?:[\w./-]+\.(?:py|m?js|sh|ts)\b|run\b|test\b|build\b|tests?/|[\w-]+\.sh\b|[\w-]+$|-m[ \t]+\w+)",
    re.MULTILINE,
)
SHOWS: Final = re.compile(
    r"\bprint(?:ln|f)?!?\s*\(|\bconsole\.\w+\(|\bsys\.stdout|\bassert(?:_eq)?\b|\.write(?:_text|FileSync)?\("
    r"|\becho\b|\bprintf\b|\bunittest\.main|\bprocess\.stdout|\bdbg!|\bpprint\(|\blogging\."
)

# What a text says of wanting its code run, for ``detect_execution_intent``.
INTENT: Final[dict[str, tuple[float, re.Pattern[str]]]] = {
    "run this": (0.4, phrases(r"(?:run|execute|try|test) (?:this|that|it|these|them)")),
    "run the code": (0.4, phrases(r"(?:run|execute|try|test) (?:the|my|your|all|both)(?: \w+){0,2}? (?:code|script|program|snippet|command|commands|block|blocks|tests?|file|example|function|simulation|benchmark|query)")),
    "please run": (0.5, phrases(r"(?:please|pls|go ahead and|now) (?:run|execute|try|compute|calculate)")),
    "can you run": (0.5, phrases(r"(?:can|could|would|will) you (?:please )?(?:run|execute|try|compute|calculate|test|plot)")),
    "let me run": (0.5, phrases(r"(?:let me|let's|let us|i'll|i will|i'm going to|we'll) (?:now |just |first |quickly |also )?(?:run|execute|compute|calculate|check|verify|test|try|count|measure|simulate)")),
    "try running": (0.4, phrases(r"try (?:running|executing|it out)")),
    "the output": (0.3, phrases(r"(?:show|tell|give) me (?:the |its )?(?:output|result|answer)s?", r"what (?:does|do|will|would) (?:it|this|they) (?:print|output|return|give)")),
    "give it a try": (0.4, phrases(r"give (?:it|this) a (?:try|go|run|spin|shot)")),
}  # fmt: skip
CLUES: Final[dict[str, tuple[float, re.Pattern[str]]]] = {
    "question about execution": (0.2, phrases(r"what (?:happens|would happen) (?:if|when)", r"(?:does|will|would|can) (?:this|it) (?:work|run|execute|compile)", r"what would this do", r"is this correct")),
    "code modification context": (0.2, phrases(r"here's the (?:fix|fixed|corrected)", r"try this instead", r"(?:fixed|corrected|updated) (?:version|code|script)")),
    "testing context": (0.15, phrases(r"(?:unit |quick |sanity )?tests? (?:for|of|whether|that|the|your|this)")),
    "computation asked for": (0.2, phrases(r"(?:compute|calculate|count|simulate|measure|benchmark) (?:the|how|all|this)")),
    "shown as an example": (-0.2, BEFORE["introduced_as_example"]),
    "meant for the reader's machine": (-0.2, phrases(r"(?:in|on|from) your (?:own )?(?:terminal|machine|shell|laptop|computer|project|server)", r"you can (?:then )?(?:run|execute|start)")),
}  # fmt: skip
ACTIONS: Final[tuple[tuple[float, str], ...]] = (
    (0.8, "High confidence - auto-execute"),
    (0.5, "Medium confidence - ask user"),
    (0.2, "Low confidence - show code only"),
)
NO_ACTION: Final = "No execution intent detected"
