"""Whether lines are shell commands: what a shell would find as the program's name."""

from __future__ import annotations

import re
from typing import Final

# Programs that are called by name, on Linux and as developers have them.
_PROGRAMS: Final = frozenset(
    """7z ansible ansible-playbook apache2ctl apk apropos apt apt-cache apt-get apt-key aria2c asdf
    awk aws az base32 base64 basename bash bat bc black blkid brew bun bundle bzip2 cal
    cargo cat cc certbot cd chgrp chmod chown chroot chsh cksum clang clang++ cmake cmp code
    column comm composer conda corepack cp cpio crontab csplit ctest curl cut cython date dd
    deno df diff dig dirname django-admin dmesg dnf docker docker-compose dotnet dpkg du
    dnsmasq echo egrep elixir env eslint esbuild ethtool exa expect export expr eza
    fallocate fdisk ffmpeg ffprobe fg file find flake8 flask flutter fmt fold free fsck ftp
    fuser fzf g++ gcc gcloud gdb gem getent gh ghc git glab go gofmt gpg gradle gradlew grep
    groupadd groups gunicorn gunzip gzip hadoop head heroku hexdump history host hostname
    hostnamectl htop http httpd iconv id ifconfig iftop influx initdb inotifywait install
    ionic iostat ip iperf3 ipython iptables isort iw java javac jest jobs journalctl jps jq
    julia jupyter k3s k9s kafka-topics keytool kill killall kind kubectl kubeadm kustomize
    last lerna less ln locale locate logrotate losetup lpr ls lsattr lsb_release lsblk lscpu
    lsmod lsof lspci lsusb lua lvcreate make mamba man mc md5sum meson minikube mix mkdir
    mkfifo mkfs mktemp mlflow mocha modprobe mongo mongod mongosh more mosquitto_pub mount
    mpirun mtr mv mvn mypy mysql mysqladmin mysqldump nano nc ncat ncdu netcat netstat ng
    nginx nice ninja nl nm nmap nmcli node nodemon nohup npm npx nslookup nvcc nvidia-smi
    nvim nvm objdump od ollama openssl openvpn opkg pacman pandoc parallel parted passwd
    paste patch pdflatex perf perl pg_dump pg_restore pgrep php pidof ping ping6 pip pip2
    pip3 pipenv pipx pkg-config pkill pm2 pnpm podman poetry popd pre-commit prettier
    printenv printf protoc ps psql pstree pushd pv pwd pyenv pylint pytest python python2
    python3 quarto R rails rake rbenv rclone readelf readlink realpath redis-cli
    redis-server rename renice reset rg rm rmdir rpm rpmbuild rscript Rscript rsync ruby
    ruff rust-analyzer rustc rustfmt rustup sam sbt scala scp screen scrapy sed seq
    serverless service sha1sum sha256sum sha512sum shellcheck shopt shred shuf sleep snap
    sort source split sqlite3 ss ssh ssh-add ssh-agent ssh-copy-id ssh-keygen sshfs stat
    strace streamlit strings strip stty su sudo svn swapon swift sysctl systemctl tac tail
    tailscale tar tcpdump tee telnet terraform test time timedatectl timeout tmux top touch
    tox tr tree tsc ts-node tsx tty uglifyjs ufw ulimit umask umount uname unalias uniq
    unset unzip uptime useradd usermod uv uvicorn uuidgen vagrant valgrind vcpkg vi vim
    virsh virtualenv visudo vite vmstat vue w wait watch watchman wc webpack wget whereis
    which whoami wrangler xargs xdg-open xmllint xxd xz yarn yes yt-dlp yum yq zcat zip
    zless zsh zypper alias bg declare eval exec mapfile read readonly set shift sh dash trap
    type typeset unlink sponge sync setfacl getfacl chattr lvm mkswap nsenter exit bind
    bindkey disown dirs pinky tput clear direnv act bazel buildah skopeo helm istioctl
    argocd flyctl vercel netlify firebase supabase prisma cypress playwright ansible-galaxy
    ansible-vault packer consul vault nomad jenkins rsyslogd spark-submit hdfs beeline hive
    huggingface-cli accelerate torchrun deepspeed tensorboard wandb dvc airflow dbt celery
    manage.py alembic twine sphinx-build mkdocs hugo jekyll gatsby next nuxt
    create-react-app expo
    """.split()  # noqa: SIM905
)
# Of these, the ones that English sentences begin with.
_WORDS: Final = frozenset(
    """alias bind cat code column cut date declare env exec exit expect export expr file find fmt
    fold free go groups head help history host id install join last less locate make man
    more next nice parallel paste patch read rename reset ruby screen service set sleep sort
    source split stat strings strip swift sync tail test time top touch type unlink vault w
    wait watch which yes act java rust perl black kind consul expo cypress hive helm nomad
    """.split()  # noqa: SIM905
)
_SHELL: Final = re.compile(
    r"(?:if|while|until) (?:\[\[? |!|test |.*; ?(?:then|do)\b)|for \w+ in .*(?:; ?do\b|[^:]$)"
    r"|for \(\(|(?:then|fi|done|do|esac|else)(?:[ \t]*[;|<>&#].*|[ \t]*$)|elif \[|case .* in$"
    r"|(?:function )?[\w-]+ ?\(\) ?\{|function [\w-]+ \{|\[\[? .*[-=<>!].* \]\]?(?: |$)"
    r"|(?:local|let) \w+=|\w+=\$\(|\w+=\"?\$\{?\w|#!.*sh\b"
)
_ASSIGNED: Final = re.compile(
    r"(?:[A-Za-z_]\w*\+?=(?:\"[^\"]*\"|'[^']*'|\$\([^)]*\)|[^\s\"']*)(?:[ \t]+|$))+"
)
_BEFORE: Final = re.compile(
    r"^(?:\(+ ?|\$ |&& |\|\| |\| |; )?"
    r"(?:(?:sudo(?: -\w+)*|time|nohup|exec|env|command|then|do|else|!|if|while) )*"
)
_NAME: Final = re.compile(r"(?:\"?\$\{?\w+\}?)?[\w./~+-]+")
_PATH: Final = re.compile(r"(?:\.{1,2}|~|\$\{?\w+\}?)?/[\w./+-]*[\w+-]|[\w./-]+\.(?:sh|bash|py|pl)")
_STARTED: Final = re.compile(r"\./|.*(?:\bs?bin/|\.(?:sh|bash)$)")
_MARKED: Final = re.compile(
    r"(?:^|[ \t])--?[A-Za-z]|[|>`&$]|[/\\]|\w\.\w|=|^\S+[ \t]+\S*[-_:@\d]|[\"']"
)
_SENTENCE: Final = re.compile(
    r"[\w)][.:,?!;]$|, (?![\"'])"
    r"|[ \t](?:the|a|an|is|are|you|your|this|that|of|it|and|to)(?=[ \t]|$)"
)
_QUOTED: Final = re.compile(r"[|$\"'`]| -")
_COMMENT: Final = re.compile(r"[ \t]#(?:[ \t].*)?$")
_CODE: Final = re.compile(
    r"[;{]$|^\S+[ \t]*(?:[-+*/]?=[ \t]|\()|^\S+[ \t]+=(?![=~])"
    r"|^export (?:default|const|class|var|function)|^let \w+ ?[=:]"
)
_HERE: Final = re.compile(r"<<-?[ \t]*['\"\\]?(\w+)")


def share_of_commands(lines: list[str]) -> float:
    """The share of lines, of those that are no comments, that are commands of a shell.

    Lines that a backslash continues count as one; here-documents and strings over several lines
    belong to the command they begin in.
    """
    commands = statements = 0
    here, continued, quote = "", False, ""
    for raw in lines:
        line = _COMMENT.sub("", raw).strip()
        if here:
            here = "" if line == here else here
            continue
        if quote:
            quote = _open_quote(line, quote)
            continue
        if continued or not line or line.startswith("#"):
            continued = continued and line.endswith("\\")
            quote = _open_quote(line, "") if continued else ""
            continue
        if _ASSIGNED.fullmatch(line) and "$" not in line:
            continue  # in a file of settings as well
        statements += 1
        if _is_command(line):
            commands += 1
            opened = _HERE.search(line)
            here = opened[1] if opened else ""
            quote = _open_quote(line, "")
        continued = line.endswith(("\\", "|", "&&", "||"))
    return commands / statements if statements else 0.0


def _is_command(line: str) -> bool:
    if _SHELL.match(line):
        return True
    if _CODE.search(line) and not _open_quote(line, ""):
        return False
    assigned = _ASSIGNED.match(line)
    rest = line[assigned.end() :] if assigned else line
    if not rest:
        return "$" in line
    rest = _BEFORE.sub("", rest, count=1)
    name = _NAME.match(rest)
    if name is None or (name.end() < len(rest) and rest[name.end()] not in " \t;|&<>)"):
        return False
    word, arguments = name[0], rest[name.end() :]
    if _PATH.fullmatch(word):
        return bool(_STARTED.match(word) or _MARKED.search(arguments))
    known = word in _PROGRAMS
    if not known:
        # Something else with an option in the form that only command lines have.
        return bool(re.search(r" --?[a-z][\w-]*(?:[ =]|$)", arguments)) and not _SENTENCE.search(
            line
        )
    if _SENTENCE.search(arguments) and not _QUOTED.search(arguments):
        return False
    few = len(arguments.split()) <= 2  # noqa: PLR2004  (a verb and what it is about)
    return word not in _WORDS or few or bool(_MARKED.search(arguments))


def _open_quote(line: str, quote: str) -> str:
    """The quotation mark that is open at a line's end, given the one open at its beginning."""
    escaped = False
    for character in line[:400]:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#":
            break
    return quote
