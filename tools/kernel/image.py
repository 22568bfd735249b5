# SPDX-License-Identifier: Apache-2.0
"""The initial file system that the machine starts from."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

from .common import PROJECT, WORK, Trouble, call
from .packages import unpacked

INIT = Path(__file__).with_name("init")
# Programs that tests may call; those that are not here are left out.
GUEST_PROGRAMS = ["ip", "ping", "iperf3", "socat"]


class Image:
    """An initial file system. Files are stored under the real directory of their path, and the usual links from /bin,
    /lib and so on into /usr make every spelling of it work."""

    def __init__(self):
        self.entries = {}
        for name in ("bin", "sbin", "lib", "lib64"):
            self.directory(f"/usr/{name}")
            self.link(f"/{name}", f"usr/{name}")
        for name in ("/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var", "/etc"):
            self.directory(name)
        self.link("/var/run", "/run")

    def directory(self, path):
        for part in reversed([Path(path), *Path(path).parents][:-1]):
            self.entries.setdefault(str(part), (stat.S_IFDIR | 0o755, b""))

    def link(self, path, target):
        self.directory(Path(path).parent)
        self.entries[str(path)] = (stat.S_IFLNK | 0o777, target.encode())

    def file(self, path, data, mode=0o644):
        self.directory(Path(path).parent)
        self.entries[str(path)] = (stat.S_IFREG | mode, data)

    def copy(self, path):
        """Puts a file of this machine at its own path; returns that path. Programs bring their libraries."""
        real = Path(path).resolve()
        home = Path(path).absolute().parent.resolve() / Path(path).name
        if str(home) in self.entries:
            return home
        data = real.read_bytes()
        if data.startswith(b"\x7fELF"):
            if PROJECT in real.parents:
                data = self.without_debug_data(real, data)
            self.file(home, data, 0o755)
            self.libraries(real)
        else:
            self.file(home, data, stat.S_IMODE(real.stat().st_mode))
        return home

    @staticmethod
    def without_debug_data(path, data):
        lean = WORK / "lean"
        done = subprocess.run(["strip", "-g", "-o", lean, path], stderr=subprocess.DEVNULL, check=False)
        return lean.read_bytes() if done.returncode == 0 else data

    def libraries(self, path):
        answer = subprocess.run(["ldd", path], text=True, capture_output=True, check=False).stdout
        missing = re.findall(r"^\s*(\S+) => not found", answer, re.MULTILINE)
        if missing:
            raise Trouble(f"{path} needs {' '.join(missing)}, which the loader does not find on this machine")
        for library in re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", answer, re.MULTILINE):
            self.copy(library)

    def write(self, file):
        """Writes the archive as the kernel's initramfs-buffer-format describes it (newc)."""
        with open(file, "wb") as out:
            number = 0
            for path, (mode, data) in [*self.entries.items(), ("TRAILER!!!", (0, b""))]:
                number += 1
                name = path.lstrip("/").encode() + b"\0"
                fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
                head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
                out.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))


def module_data(file):
    unpack = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-dcq"], ".gz": ["gzip", "-dc"]}.get(Path(file).suffix)
    return subprocess.run([*unpack, file], stdout=subprocess.PIPE, check=True).stdout if unpack \
        else Path(file).read_bytes()


def base_image(kernel, modules):
    image = Image()
    box = next(unpacked("busybox-static").glob("**/bin/busybox"))
    image.file("/usr/bin/busybox", box.read_bytes(), 0o755)
    # This machine's shell: busybox's own would prefer its applets to the programs in PATH, such as the real ip.
    image.file("/usr/bin/sh", Path("/bin/sh").read_bytes(), 0o755)
    image.libraries(Path("/bin/sh"))
    for program in GUEST_PROGRAMS:
        if shutil.which(program):
            home = image.copy(shutil.which(program))
            if home.parent not in (Path("/usr/bin"), Path("/usr/sbin")):
                image.link(f"/usr/bin/{program}", str(home))
    taken = {Path(path).name for path in image.entries}
    for applet in call(box, "--list").split():
        if applet not in taken:
            image.link(f"/usr/bin/{applet}", "busybox")
    lines = []
    for file, arguments in kernel.load_order(modules):
        inside = f"/cotun/modules.d/{Path(file).name.partition('.ko')[0]}.ko"
        image.file(inside, module_data(file))
        lines.append(f"{inside} {arguments}\n")
    image.file("/cotun/modules", "".join(lines).encode())
    image.file("/init", INIT.read_bytes(), 0o755)
    image.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    image.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    image.file("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    for known in ("/etc/protocols", "/etc/services", "/etc/nsswitch.conf"):
        if Path(known).is_file():
            image.copy(known)
    return image
