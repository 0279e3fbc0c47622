"""Licences as files state them, lists of them, and headers taken out."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_beam.code.license import PERMISSIVE, detect, expand, from_metadata, header, parse
from data_beam.code.parse import parse as parse_code
from data_beam.document import Document, Drop
from data_beam.stages.code import CodeSyntax
from maxllm.config.code import CodeConfig, LicenseConfig

GNU = """# This program is free software; you can redistribute it and/or modify it under the terms of the GNU {}General
# Public License as published by the Free Software Foundation; {}
# This program is distributed in the hope that it will be useful,"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("// SPDX-License-Identifier: MIT\n", "MIT"),
        ("/* SPDX-License-Identifier: (GPL-2.0-only OR mit) */\n", "GPL-2.0-only OR MIT"),
        ("<!-- SPDX-License-Identifier: Apache-2.0 -->", "Apache-2.0"),
        ("# SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note\n", "GPL-2.0 WITH Linux-syscall-note"),
        ("# SPDX-License-Identifier: MIT AND (BSD-2-Clause OR ISC)\n", "MIT AND (BSD-2-Clause OR ISC)"),
        ("// SPDX-License-Identifier: MIT\n// SPDX-License-Identifier: Zlib OR ISC\n", "(Zlib OR ISC) AND MIT"),
        ("// Licensed under the Apache License, Version 2.0 (the\n// \"License\")", "Apache-2.0"),
        ("/*\n * Permission is hereby granted, free of charge, to any person\n * obtaining a copy of", "MIT"),
        ("# This file is released under the MIT license. See LICENSE.\n", "MIT"),
        ("// Use of this source code is governed by a BSD-style\n// license that can be found", "BSD-3-Clause"),
        ("Redistribution and use in source and binary forms, with or without", "BSD-2-Clause"),
        ("Redistribution and use in source and binary forms\n * Neither the name of the", "BSD-3-Clause"),
        (GNU.format("", "either version 3, or\n# (at your option) any later version."), "GPL-3.0-or-later"),
        (GNU.format("", "version 2."), "GPL-2.0-only"),
        (GNU.format("Lesser ", "either version 2.1 of the License, or any later version."), "LGPL-2.1-or-later"),
        (GNU.format("Affero ", "version 3 of the License."), "AGPL-3.0-only"),
        ("// This Source Code Form is subject to the terms of the Mozilla Public\n// License, v. 2.0.", "MPL-2.0"),
        ("x = 1  # a license to kill\n", None),
        ("", None),
        ("SPDX-License-Identifier: ()((", None),
    ],
)  # fmt: skip
def test_the_head_says_which(text, expected):
    assert detect(text) == expected


@pytest.mark.parametrize(
    ("expression", "allow", "deny", "expected"),
    [
        ("GPL-2.0-only OR MIT", ["permissive"], [], True),
        ("GPL-2.0-only AND MIT", ["permissive"], [], False),
        ("MIT AND GPL-2.0 OR ISC", ["permissive"], [], True),  # AND binds first
        ("MIT AND (GPL-2.0 OR ISC)", ["permissive"], [], True),
        ("GPL-3.0-or-later", ["GPL-3.0"], [], True),
        ("GPL-3.0+", [], ["copyleft"], False),
        ("MIT", [], ["copyleft"], True),
        ("MIT", ["permissive"], ["MIT"], False),
        ("LicenseRef-mine", ["permissive"], [], False),
        ("LicenseRef-mine", [], ["copyleft"], True),
    ],
)
def test_lists_read_or_as_a_choice_and_and_as_both(expression, allow, deny, expected):
    assert parse(expression).allowed(expand(allow), expand(deny)) is expected


@given(st.text("MIT() ANDORWITHGPL-2.0+\n", max_size=60))
@example("OR.")
@example("MIT AND WITH.")
def test_any_expression_is_read_or_refused(text):
    tree = parse(text)
    assert tree is None or str(parse(str(tree))) == str(tree)


def test_metadata_speaks_where_the_file_does_not():
    assert from_metadata({"max_stars_repo_licenses": ["mit", "GPL-3.0"]}) == "GPL-3.0 AND MIT"
    assert from_metadata({"license": "Apache-2.0"}) == "Apache-2.0"
    assert from_metadata({"license": None, "licenses": []}) is None


def go(text, **metadata):
    metadata = {"content_type": "code", "programming_language": "go", **metadata}
    return Document("1", text, "s", "2024", metadata=metadata)


def test_the_stage_writes_the_licence_and_drops_by_it():
    stage = CodeSyntax(CodeConfig(license=LicenseConfig(enabled=True, allow=["permissive"], unknown="drop")))
    text = "// SPDX-License-Identifier: {}\npackage a\n"
    assert stage(go(text.format("MIT"))).metadata["license"] == "MIT"
    assert stage(go(text.format("GPL-3.0-only"))) == Drop("code.license", "GPL-3.0-only")
    assert stage(go("package a\n")) == Drop("code.license_unknown", None)
    assert stage(go("package a\n", max_stars_repo_licenses=["BSD-3-Clause"])).metadata["license"] == "BSD-3-Clause"
    stage.close()


@pytest.mark.parametrize(
    ("language", "text", "left"),
    [
        ("go", "// Copyright 2020 X\n// MIT license\n\n// Package a.\npackage a\n", "// Package a.\npackage a\n"),
        ("c", "/* Copyright ü */\n\nint x;\n", "int x;\n"),
        ("c", "/* About */\nint x;\n", None),
        ("c", "int x; // Copyright\n", None),
        ("python", "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n# Copyright me\nx = 1\n",
         "#!/usr/bin/python\n# -*- coding: utf-8 -*-\nx = 1\n"),
        ("python", "#!/usr/bin/python\nx = 1\n", None),
    ],
)  # fmt: skip
def test_headers_are_taken_out_and_nothing_else(language, text, left):
    comments = parse_code((language, text, False, True))["comments"]
    span = header(text, comments)
    if left is None:
        assert span is None
    else:
        assert text[: span[0]] + text[span[1] :].lstrip("\n") == left


def test_stripping_is_recorded_and_does_not_forget_the_licence():
    stage = CodeSyntax(CodeConfig(license=LicenseConfig(enabled=True, strip_header=True)))
    once = stage(go("// Copyright X. SPDX-License-Identifier: MIT\n\npackage a\n"))
    assert once.text == "package a\n" and once.metadata["license"] == "MIT"
    assert once.metadata["license_header_removed"] == len("// Copyright X. SPDX-License-Identifier: MIT")
    again = stage(once)
    assert again.text == once.text and again.metadata["license"] == "MIT"
    stage.close()


def test_the_permissive_set_has_no_copyleft():
    assert not any(
        name.startswith(("GPL", "LGPL", "AGPL", "MPL", "EPL", "CC-BY-SA", "CC-BY-NC")) for name in PERMISSIVE
    )
