"""Languages of blocks that do not name theirs."""

import pytest

from mulligan.extraction.commands import share_of_commands
from mulligan.extraction.guess import guess

GUESSES = {
    "python": [
        "import csv\nimport sys\n\nrows = list(csv.reader(sys.stdin))\n\ntotal = 0\nwidest = 0\n"
        "names = []\n\nfor row in rows:\n    total += int(row[1])\n\nprint(total)\n",
        'shelf = {\n    "pears": 3,\n    "plums": 7,\n}\n\nwith open("shelf.txt", "w") as f:\n'
        "    f.write(str(shelf))\n",
        "weights = np.array([3, 4])\nlength = np.linalg.norm(weights)\n",
        "queue = deque([1, 2, 3])",
        "print(median([3, 1, 2]))  # 2",
        'x = "ABCD"\ny = "ACDF"\nprint(longest(x, y))',
        "def half(n):\n    # ... the rest stays\n    return",
        "@cache\ndef paths(m, n):\n    return 1 if m == 1 or n == 1 else paths(m - 1, n) + paths(m, n - 1)\n",
    ],
    "javascript": [
        "describe('Cart', () => {\n  it('is empty', () => {\n    cart.visit('/')\n    cart.count().should('equal', 0)\n  })\n})\n",
        "const total = basket\n  .filter((item) => item.price > 0)\n  .reduce((sum, item) => sum + item.price, 0);\n",
        "sumPrimes([2, 3, 5]); // 10",
        "import { load } from './store';\n\nload({\n  size: 3,\n  kind: 'small',\n});\n",
        "for (let i = 0; i < rows.length; i++) {\n    if (rows[i] === null) {\n        skip(i);\n    }\n}\n",
    ],
    "rust": [
        "let mut seen = HashSet::new();\nfor word in text.split_whitespace() {\n    seen.insert(word.to_string());\n}\n",
        "#[derive(Debug)]\npub struct Stack<T> {\n    items: Vec<T>,\n}\n\nimpl<T> Stack<T> {\n    pub fn len(&self) -> usize {\n        self.items.len()\n    }\n}\n",
    ],
    "bash": [
        "git push origin my-branch",
        "git checkout <branch>",
        "scp -r notes.txt me@host:~/backup/",
        "ssh-copy-id me@host",
        "g++ -O2 -o count count.cpp\n./count < words.txt",
        "docker compose up --build",
        'NAME="world"\necho "hello $NAME"',
        "rsync -av \\\n  --delete \\\n  build/ me@host:/srv/www/",
        'curl -X POST http://localhost:8080/items -d \'{\n  "name": "pear",\n  "count": 3\n}\'',
        "while IFS= read -r line; do\n  echo \"$line\"\ndone < names.txt",
        "cat > notes.txt <<EOF\nthis is a sentence, and no command.\nEOF",
        "pypi-server --port 9000 &",
    ],
    "json": ['{\n  // how wide\n  "width": 3,\n  "items": ["http://x", 1]\n}'],
    "text": [
        "int main() {\n    int total = 0;\n    for (int i = 0; i < 3; i++) {\n        total += i;\n    }\n    return total;\n}",
        "public boolean isEven(int n) {\n    if (n < 0) {\n        return false;\n    }\n    return n % 2 == 0;\n}",
        ".card {\n  color: #333;\n  padding: 4px;\n}",
        "color: #ff99cc;",
        "function area(side: number): number {\n  return side * side;\n}",
        "name: build\non:\n  push:\n    branches: [main]\njobs:\n  test:\n    runs-on: ubuntu",
        "FROM node:20\nWORKDIR /app\nCOPY . .\nRUN npm ci",
        "def swap(a, b)\n  [b, a]\nend\nputs swap(1, 2)",
        "local total = 0\nfor _, v in ipairs(list) do\n  total = total + v\nend",
        "numbers <- c(2, 4, 6)\nmean(numbers)",
        "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.Println(1)\n}",
        "speed = 60 km / 2 h",
        "(90 + 92 + 81) / 3 = 87.67",
        "src/\n├── main.py\n└── util.py",
        "  /\\_/\\\n ( o.o )\n  > ^ <",
        "Input: n = 3\nOutput: 6\nExplanation: 1 + 2 + 3 is 6.",
        "find the smallest number that is in all of the lists, then sort it.",
        "git is a program that many people use.",
        "Dear all,\n\nthe meeting is at noon.\n\nYours",
        "<p>Some <b>text</b></p>",
        "\\begin{align}\n x &= 1\n\\end{align}",
        "DATABASE=main\nPORT=5432",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "language"), [(code, language) for language in GUESSES for code in GUESSES[language]]
)
def test_languages_are_told_from_what_they_look_like(code: str, language: str) -> None:
    assert guess(code) == language


def test_lines_of_a_string_belong_to_the_command_it_begins_in() -> None:
    lines = ["echo 'one", "two is a line of text", "three'", "ls"]
    assert share_of_commands(lines) == 1


def test_nothing_has_no_commands() -> None:
    assert share_of_commands([]) == share_of_commands(["# only", "# remarks"]) == 0
