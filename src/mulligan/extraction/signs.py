"""What a line of code says about its language: one table of patterns, read in one pass.

A pattern of weight 3 is hardly written in any other language, one of weight 1 in several. The
languages that Mulligan does not run are here so that they are not taken for one that it runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import re2

# RE2 syntax, any of them on one line. Blanks before a line are not looked at.
SIGNS: Final[dict[str, dict[int, tuple[str, ...]]]] = {
    "python": {
        3: (
            r"^(?:async )?def \w+\(.*(?:[:,(]|\):.*|-> .*:)\s*(?:#.*)?$",
            r"^class \w+(?:\([\w., =\[\]]*\))?:\s*(?:#.*)?$",
            r"^from [\w.]+ import [\w*(]",
            r"^import \w+(?:\.\w+)* as \w+\s*(?:#.*)?$",
            r"^(?:if|elif|while|with|except|for|async for|async with) .*:\s*(?:#.*)?$",
            r"^(?:elif|except)\b.*:",
            r"^(?:try|else|finally):\s*(?:#.*)?$",
            r"\bf\"[^\"]*\{|\bf'[^']*\{",
            r"\bfor \w+(?:, ?\w+)* in .*[\])}]\s*$|\blambda\b[\w, *=]*:",
            r"\bself\.\w|\.__\w+__\b|\b__name__ ==|\bis (?:not )?None\b|\bnot in\b",
            r"\b(?:len|range|enumerate|sorted|isinstance|zip|input|str|int|float|dict)\(.*[^;{]\s*$",
            r"^@\w+(?:\.\w+)*(?:\(.*\))?\s*$",
        ),
        2: (
            r"^import \w+(?:\.\w+)*(?:, ?\w+(?:\.\w+)*)*\s*(?:#.*)?$",
            r"^(?:return|raise|assert|yield|del|nonlocal|global)\b(?:.*[^;{\s])?\s*$",
            r"^(?:pass|continue|break)\s*(?:#.*)?$",
            r"^print\(.*\)\s*(?:#.*)?$",
            r"\b(?:None|True|False)\b",
            r"\b(?:np|pd|plt|os|sys|json|torch|random|requests|datetime|re)\.\w+[.(]",
            r"^(?:\"\"\"|''')|(?:\"\"\"|''')$",
            r"^\w+(?:, \w+)* (?:[-+*/]|//|\*\*)?= .*(?:[\w)\]}\"'(\[{])\s*#",
        ),
        1: (
            r"^[\w.\[\]\"', ]+ (?:[-+*/%|&]|//|\*\*)?= [^;]*[^;{]$",
            r"^\w+(?:\.\w+)*\([^;]*[^;{\s]?\s*$",
            r"\b(?:and|or|not)\b",
        ),
    },
    "javascript": {
        3: (
            r"^(?:export )?(?:const|let) (?:\w+|\{[^}]*\}|\[[^\]]*\]) = ",
            r"^(?:export )?const \{",
            r"\bconsole\.\w+\(",
            r"\brequire\(['\"]",
            r"^import\b.*\bfrom ['\"]|^import ['\"]",
            r"^export (?:default|const|function|class|async|\{)",
            r"\bmodule\.exports\b|\bexports\.\w+ =",
            r"\b(?:document|window|localStorage|process|JSON|Object|Promise|Array|Number)\.\w+\(",
            r"[\w)\]\"'] ?(?:===|!==) ?[\w(\"'\[!-]",
            r"(?:\)|\w) => (?:[{(]|\w)",
            r"^(?:async )?function\*? \w+\([\w, ={}\[\].]*\) ?\{",
            r"\bfunction ?\([\w, ]*\) ?\{",
            r"`[^`]*\$\{",
            r"\bfor \((?:const|let|var) ",
            r"\btypeof \w|\bundefined\b|\bnew (?:Promise|Map|Set|Date|Error|Array)\(",
        ),
        2: (
            r"^var \w+ = [^:]*;\s*(?://.*)?$",
            r"^\}\)?;?\s*$|^\}, |^\}\)\.|^\)\.\w+\(",
            r"\bawait \w|\.then\(|\bthis\.\w",
            r"^(?:if|for|while|switch|catch) \(.*\) \{\s*$|^\} (?:else|catch|finally)",
        ),
        1: (
            r";\s*(?://.*)?$",
            r"^return\b.*;",
            r"\{\s*$",
            r"^let \w+(?:, \w+)*;?$",
            r"^\w+: .*,$",
        ),
    },
    "rust": {
        3: (
            r"^(?:pub(?:\(\w+\))? )?(?:async |unsafe |const )*fn \w+.*[({]\s*$|\bfn \w+(?:<.*>)?\(.*\) (?:-> .* )?\{",
            r"\blet mut \w|^let \w+: &?(?:mut )?(?:[iuf]\d|[A-Z]\w*[< ]|str|bool|char|\[|\().*;",
            r"\b(?:println|format|vec|assert|assert_eq|panic|eprintln|write|writeln|matches)!\s*[(\[]",
            r"^use (?:std|crate|super|core|self|\w+)::",
            r"^(?:pub )?(?:impl|trait|mod)\b.*\{|^(?:pub )?enum \w+(?:<.*>)? \{\s*$",
            r"&mut \w|&'?\w* ?str\b|&self\b|\bVec<|\bOption<|\bResult<|\bBox<",
            r"\.unwrap\(\)|\.iter\(\)|\.collect::<|\bSome\(|\bOk\(\(?\)|\.to_string\(\)|\bString::",
            r"^#!?\[\w+.*\]\s*$",
            r": (?:i|u|f)(?:8|16|32|64|128|size)\b|\b\d+(?:i|u|f)(?:8|16|32|64)\b",
            r"^match .* \{\s*$|^\S.* => .*,$",
        ),
        2: (r"^let \w+ = .*;", r"^pub \w+: ", r"\w::\w+[(:<]", r"^\}\s*else", r"^//[/!]"),
        1: (r";\s*(?://.*)?$", r"\{\s*$"),
    },
    "typescript": {
        3: (
            r"^(?:export )?(?:interface|type|enum|namespace|declare|abstract class) \w+.*[={]",
            r"\b\w+\??: (?:string|number|boolean|any|void|unknown|never|Promise<|Array<|\w+\[\])",
            r"^(?:private|public|protected|readonly) (?:readonly |async |static )*\w+(?:\?|!)?[:(=]",
            r"^import type |\bas const\b|\bas (?:string|number|any|unknown)\b",
        ),
    },
    "c": {
        3: (
            r"^#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b",
            r"^(?:public|private|protected|internal|static|final|abstract|virtual|override|sealed)\b[\w<>\[\], ]*[({;:]?",
            r"^(?:const |unsigned |static |extern |struct )*(?:int|void|char|double|float|long|short|bool|boolean|byte|size_t|auto|uint\d*|uint\d+_t|String|std::\w+)(?:<.*>)?(?:\[\])*[ *&]+\w+(?:\[.*\])? *(?:[=;,({]|$)",
            r"\bstd::|\bcout\b|\bcin\b|\bendl\b|\bSystem\.out\b|\bConsole\.(?:Write|Read)",
            r"^using (?:namespace )?[\w.:]+;|^namespace [\w.:]+|^package [\w.]+;",
            r"^(?:printf|scanf|malloc|free|fprintf|memset|strcpy)\(|->\w+",
            r"^(?:List|Map|HashMap|ArrayList|Set|vector|Scanner|IEnumerable)<",
            r"\bnew \w+(?:<.*>)?(?:\[|\(\)\s*;?\s*\{)|\bthrows \w|\bnullptr\b|\bNULL\b",
            r"^(?:contract|pragma solidity|mapping|event|modifier|function \w+\(.*\) (?:public|external|view|internal|private))\b",
            r"^[A-Z]\w+(?:<[\w, <>]+>)?[ *&]+\w+ = (?:new )?[\w.(]+.*;",
            r"^import [a-z]\w*(?:\.\w+)+(?:\.\*)?;",
        ),
        1: (r";\s*(?://.*)?$", r"\{\s*$", r"^\}", r"^(?:if|for|while) ?\("),
    },
    "go": {
        3: (
            r"^package \w+\s*$",
            r"^func (?:\(\w+ \*?\w+\) )?\w+\(",
            r"\w+(?:, \w+)* := ",
            r"\bfmt\.\w+\(",
            r"^type \w+ (?:struct|interface) \{|\berr != nil\b",
        ),
        1: (r"\{\s*$",),
    },
    "ruby": {
        3: (
            r"^def [\w.?!=]+(?:\([^:]*\))?\s*$|^def self\.",
            r"^end\b(?:\.\w+)?\s*$",
            r"\bdo \|.*\|\s*$|^puts |\battr_(?:reader|accessor)\b|^require(?:_relative)? ['\"]",
            r"^class \w+ < [\w:]+\s*$|^module \w+\s*$|\.each\b|\bunless\b|\belsif\b",
        ),
    },
    "lua": {
        3: (
            r"^local (?:function )?\w+|^function [\w.:]+\([\w, .]*\)\s*$|\bthen\s*$|^elseif\b|~=",
            r"^--|\bnil\b",
        ),
    },
    "php": {
        3: (r"<\?php|\?>|^\$\w+(?:\[.*\]|->\w+)* (?:[.+-])?= .*;|\$this->|^echo .*;$|\$\w+->\w+\(", r"^use [\w\\]+\\\w+;"),
    },
    "perl": {3: (r"^(?:my|our) [$@%(]|^use (?:strict|warnings)\b|=~ (?:s|m|tr)?/|^sub \w+ \{",)},
    "r": {
        3: (r"^[\w.]+ <- |^library\(|%>%|\bdata\.frame\(|\bc\(.*\)\s*$|<- function\(|\bggplot\(",),
    },
    "gdscript": {
        3: (
            r"^(?:static )?func _?\w+\(.*\).*:\s*$|^extends \w+|^onready var|^@?export(?:_range)?(?:\(.*\))? var|^@onready|^signal \w+",
            r"^var \w+(?::? ?\w*)? ?:?= [^;]*$|\bVector[23]\(|\bget_node\(|\$\w+\.",
        ),
    },
    "kotlin": {
        3: (
            r"^(?:(?:override|private|suspend|public|mutating|static) )*fun[c]? \w+\(.*\).*\{?|^val \w+ = |^(?:val|var|let) \w+: \w+\?? = ",
            r"^(?:guard|if) let \w|^data class\b|^import (?:UIKit|Foundation|SwiftUI)\b|^struct \w+: \w+",
        ),
    },
    "css": {
        3: (
            r"^[.#@*]?[\w.#:, >+~*()\[\]='\"-]+ \{\s*$|^[.#][\w-]+(?:[:., >][\w.:# -]*)?\s*[{,]",
            r"^(?:--)?[a-z-]+: ?[^(){}]*(?:\(.*\))?[^(){}]*;\s*(?:/\*.*)?$",
            r"^@(?:media|import|keyframes|font-face|mixin|include|tailwind)\b|^\$[\w-]+: ",
            r"^/\*.*\*/\s*$",
        ),
    },
    "html": {
        3: (r"^</?[A-Za-z!][\w:-]*(?:[\s/>]|$)|^<!--|^<\?xml|^\{[%{]|</\w+>\s*$",),
    },
    "sql": {
        3: (
            r"^(?:SELECT|INSERT INTO|CREATE (?:TABLE|INDEX|VIEW|DATABASE|OR)|UPDATE \w+|ALTER TABLE|DELETE FROM|DROP TABLE|WITH \w+ AS|GROUP BY|ORDER BY|INNER JOIN|LEFT JOIN|JOIN|WHERE|VALUES|FROM)\b",
            r"^(?:select .* from|insert into|create table|update \w+ set|alter table|delete from|drop table|group by|order by) ",
            r"\b(?:VARCHAR|PRIMARY KEY|NOT NULL|INTEGER|FOREIGN KEY)\b",
        ),
    },
    "dockerfile": {
        3: (
            r"^FROM [\w./:${}-]+(?: (?:AS|as|As) \w+)?\s*$",
            r"^(?:RUN|COPY|ADD|WORKDIR|ENV|EXPOSE|CMD|ENTRYPOINT|ARG|LABEL|VOLUME|USER|HEALTHCHECK) \S",
        ),
    },
    "yaml": {
        3: (
            r"^- [\w\"'{$./-]+:(?: |$)|^[\w.-]+:\s*(?:[|>][-+]?)?\s*(?:#.*)?$|^---\s*$",
            r"^(?:\"?[\w./ -]+\"?): [^;{(]*[^;{(,]$",
        ),
        2: (r"^- \S",),
    },
    "ini": {3: (r"^\[[\w.: \"-]+\]\s*$",), 1: (r"^[\w.-]+ ?= ?[\w./:,\"-]*$",)},
    "latex": {
        3: (r"\\(?:begin|end|documentclass|usepackage|section|frac|item|text|textbf|left|sum|int)\b|^\$\$|^%",),
    },
    "lean": {
        3: (
            r"^(?:theorem|lemma|inductive|structure [A-Z]|axiom|open [A-Z]|namespace|instance|noncomputable|Theorem|Proof|Qed|Definition|data [A-Z]|newtype|where|module [A-Z])\b",
            r"^def .*:=|:= by|λ|→|∀|∃|^\| .* (?:=>|:=|->)|^\w+ ::? \w.*->|^import (?:qualified )?[A-Z]\w+|^let rec\b|^match .* with\s*$",
        ),
    },
    "markdown": {
        3: (r"^#{2,6} \w|^```|^\*\*\w|^\[.*\]\(.*\)|^!\[|^>+ \w|^={3,}$|^\* \w|^\d+\. [A-Z]",),
    },
    "powershell": {
        3: (r"^(?:Get|Set|New|Remove|Write|Invoke|Start|Stop|Import|Add)-[A-Z]\w+|^\$\w+ = [^;]*$|^[A-Z]:\\|^(?:chkdsk|sfc|dism|ipconfig|netsh) ",),
    },
    "output": {
        3: (r"[│├└┌─╔║╚█]|^[|+][-=+| ]{3,}|^\|.*\|\s*$|^\d+[|:] ",),
    },
    "formula": {
        3: (r"[²³√≤≥≠×÷∑∫π∞]| = .* = |^[\w() +*/^-]+ = [\d.+*/^() -]+ [a-z]\w*(?:/\w+)?$",),
        1: (r"^[\w() +*/^-]+ = [\w.+*/^() -]+$",),
    },
}  # fmt: skip


@cache
def _table() -> tuple[Any, list[tuple[str, int]]]:
    """All patterns as one automaton, and of each the language and weight."""
    options = re2.Options()
    options.log_errors = False
    found = re2.Set.SearchSet(options)
    said: list[tuple[str, int]] = []
    for language, weights in SIGNS.items():
        for weight, patterns in weights.items():
            for pattern in patterns:
                found.Add(pattern)
                said.append((language, weight))
    found.Compile()
    return found, said


def signs_of(line: str) -> dict[str, int]:
    """What a line says for each language, at most; nothing for those it says nothing for."""
    found, said = _table()
    best: dict[str, int] = {}
    for index in found.Match(line) or ():
        language, weight = said[index]
        best[language] = max(best.get(language, 0), weight)
    return best
