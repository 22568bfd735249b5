# SPDX-License-Identifier: Apache-2.0
"""What runs in the machine, and what came of it."""

import json
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .common import PROJECT, Trouble, call, note

BUILD = PROJECT / "build" / "test-kernel-build"


class Program:
    """Something to run inside, and what came of it."""

    def __init__(self, name, command, env=None, workdir=None):
        self.name, self.command, self.env, self.workdir = name, command, env or {}, workdir
        data = Path(command[0]).read_bytes()
        self.is_catch2 = b"allow-running-no-tests" in data or b"libCatch2" in data
        self.runnable = data.startswith((b"\x7fELF", b"#!/bin/sh"))
        self.begun = self.late = False
        self.status = None
        self.left = ""
        self.report = ""
        self.passed = self.failed = self.skipped = 0
        self.remarks = []  # one line a failure or skip

    def script(self, number, patterns, image):
        """The shell script that becomes the program."""
        words = [str(image.copy(self.command[0])), *self.command[1:]]
        for word in [*self.command[1:], *self.env.values()]:
            if word.startswith("/") and Path(word).is_file():
                image.copy(word)
        if self.is_catch2:
            words += ["--reporter", "console", "--reporter", f"XML::out=/cotun/report/{number}",
                      "--durations", "yes", "--colour-mode", "none", "--allow-running-no-tests"]
            if patterns:  # a word is a part of a name, as tools/test has it
                words.append(",".join(p if any(c in p for c in '*[~"') else f"*{p}*" for p in patterns))
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.env.items() if name != "PATH"]
        if self.workdir:
            image.directory(self.workdir)
            lines.append(f"cd {shlex.quote(self.workdir)}")
        return "\n".join([*lines, f"exec {shlex.join(words)}", ""]).encode()

    def fail(self, why):
        self.failed += 1
        self.remarks.append(f"failed: {self.name}: {why}")

    def skip(self, why):
        self.skipped += 1
        self.remarks.append(f"skipped: {self.name}: {why}")

    def judge(self, limit):
        complete = self.judge_report() if self.is_catch2 else False
        if not self.begun:
            self.fail("not run, because the machine stopped before it")
        elif self.late:
            self.fail(f"not done after {limit} s, and killed")
        elif self.status is None:
            self.fail("the machine stopped or hung while it ran")
        elif self.is_catch2:
            # Catch2 ends with 4 when all was skipped.
            if not self.failed and (not complete or self.status not in (0, 4)):
                self.fail(f"stopped with status {self.status}"
                          + ("" if complete else " before the end of its report"))
        elif self.status == 0:
            self.passed += 1
        elif self.status == 77:
            self.skip("status 77")
        else:
            self.fail(f"status {self.status}")
        if self.left:
            self.fail(f"left behind: {self.left}")

    def judge_report(self):
        """Counts the cases of Catch2's own report, which may end anywhere; true if it is whole."""
        parser = ElementTree.XMLPullParser()
        whole = True
        try:
            parser.feed(self.report)
            parser.close()
        except ElementTree.ParseError:
            whole = False
        for _, element in parser.read_events():
            result = element.find("OverallResult")
            if element.tag != "TestCase" or result is None:
                continue
            if result.get("success") != "true":
                self.fail(element.get("name"))
            elif result.get("skips", "0") != "0":
                why = " ".join((element.findtext(".//Skip") or "").split())
                self.skip(element.get("name") + (f" ({why})" if why else ""))
            else:
                self.passed += 1
        return whole


def project_programs(suites, image):
    """Builds the project and gives its tests; puts every program of the build into the image."""
    if not (PROJECT / "meson.build").exists():
        raise Trouble("there is no meson.build beside tools/ to build the tests from; name programs with --program")
    note(f"building in {BUILD.relative_to(PROJECT)}")
    call(PROJECT / "tools/setup", "--quiet", "test", "--into", BUILD, "--",
         "--buildtype=debugoptimized", "-Dtests=enabled")
    call("ninja", "-C", BUILD, "all", "meson-test-prereq")
    for target in json.loads(call("meson", "introspect", "--targets", BUILD)):
        if target["type"] == "executable":
            for file in target["filename"]:
                if Path(file).is_file():
                    image.copy(file)
    name = json.loads(call("meson", "introspect", "--projectinfo", BUILD))["descriptive_name"]
    programs = []
    for test in json.loads(call("meson", "introspect", "--tests", BUILD)):
        groups = [suite.partition(":") for suite in test["suite"]]
        # Of the suite `script` are tests of the build itself: nothing for another kernel.
        ours = any(group[0] == name and group[2] != "script" for group in groups)
        wanted = not suites or any(group[2] in suites for group in groups)
        if ours and wanted:
            program = Program(test["name"], test["cmd"], test["env"], test["workdir"])
            # An interpreter of this machine would not find its own files inside.
            program.runnable &= PROJECT in Path(test["cmd"][0]).resolve().parents
            programs.append(program)
    return programs
