# SPDX-License-Identifier: Apache-2.0
"""What comes from packages: the tools on this machine, and the kernel and busybox that are unpacked and not installed."""

import os
import re
import shutil
from pathlib import Path

from .common import WORK, Trouble, call, note

# What has to be on this machine: program, and the Debian package that has it.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "depmod": "kmod",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "strip": "binutils",
    "xz": "xz-utils",
    "zstd": "zstd",
}


def apt(*words, **options):
    if not shutil.which("apt-get"):
        raise Trouble("the kernel comes from a Debian package, and this machine has no apt-get")
    return call(*words, "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root",
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}, **options)


def install_tools():
    missing = sorted({package for program, package in TOOLS.items() if not shutil.which(program)})
    if not missing:
        return
    if os.geteuid() != 0:
        raise Trouble(f"not installed: {' '.join(missing)}. Install them, or run this as root once")
    note(f"installing {' '.join(missing)}")
    try:
        apt("apt-get", "install", "-y", "--no-install-recommends", *missing)
    except Trouble:  # the package lists may be old or missing
        apt("apt-get", "update")
        apt("apt-get", "install", "-y", "--no-install-recommends", *missing)


def unpacked(package):
    """Where a package is unpacked; `package` is its name, or a .deb file."""
    archive = Path(package) if package.endswith(".deb") else None
    place = WORK / "packages" / (archive.stem if archive else package)
    if place.is_dir():
        return place
    if archive is None:
        note(f"fetching {package}")
        fetched = WORK / "fetch"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        apt("apt-get", "download", package, cwd=fetched)
        archive = next(fetched.glob("*.deb"))
    partial = place.with_name(place.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    call("dpkg-deb", "-x", archive, partial)
    partial.rename(place)
    shutil.rmtree(WORK / "fetch", ignore_errors=True)
    return place


def kernel_packages(name):
    """The packages of a kernel: the one behind a name such as linux-image-cloud-amd64, and that of the modules where a
    distribution keeps them apart."""
    try:
        answer = apt("apt-cache", "depends", name)
    except Trouble:
        if os.geteuid() != 0:
            raise
        apt("apt-get", "update")
        answer = apt("apt-cache", "depends", name)
    needed = re.findall(r"^  Depends: (linux-(?:image|modules)-[^\s<>]+)$", answer, re.MULTILINE)
    found = [] if any(other.startswith("linux-image-") for other in needed) else [name]
    for other in needed:
        found += kernel_packages(other)
    return list(dict.fromkeys(found))


class Kernel:
    """A kernel that is unpacked on this machine: its image, release and modules."""

    def __init__(self, package):
        names = [package] if package.endswith(".deb") else kernel_packages(package)
        places = [unpacked(name) for name in names]
        images = [image for place in places for image in place.glob("boot/vmlinuz-*")]
        if not images:
            raise Trouble(f"no kernel image in {' '.join(names)}: name a kernel package of this architecture")
        self.image = images[0]
        self.release = self.image.name.removeprefix("vmlinuz-")
        # One tree of all modules, where depmod of every version looks for them.
        self.base = self.image.parent / "modules"
        if not (self.base / "lib/modules" / self.release / "modules.dep").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            for tree in [tree for place in places for tree in place.glob(f"**/lib/modules/{self.release}")]:
                shutil.copytree(tree, self.base / "lib/modules" / self.release, dirs_exist_ok=True,
                                copy_function=os.link)
            (self.base / "usr").mkdir(parents=True)
            (self.base / "usr/lib").symlink_to("../lib")
            call("depmod", "-b", self.base, self.release)

    def load_order(self, names):
        """Module files and their arguments, every module behind those that it needs."""
        order = []
        for name in names:
            listing = call("modprobe", "-d", self.base, "-S", self.release, "--show-depends", name)
            order += re.findall(r"^insmod (\S+) ?(.*)$", listing, re.MULTILINE)
        return list(dict.fromkeys((file, arguments.strip()) for file, arguments in order))
