"""The list of tests that take seconds, and the sample of them that a run takes."""

import ast

from tests.support.heavy import ROOT, function_of, heavy_tests, in_sample, is_heavy


def test_the_list_names_tests_that_exist():
    missing = []
    for test in sorted(heavy_tests()):
        path, name = test.split("::")
        tree = ast.parse((ROOT / path).read_text()) if (ROOT / path).exists() else ast.Module([], [])
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(test)
    assert missing == []


def test_a_test_is_known_by_its_function():
    assert function_of("tests/a/test_b.py::test_c[x-[y]]@group") == "tests/a/test_b.py::test_c"
    assert not is_heavy("tests/test_heavy.py::test_the_list_names_tests_that_exist")


def test_samples_of_all_seeds_take_each_test_and_one_seed_takes_a_part():
    tests = sorted(heavy_tests())
    taken = [{test for test in tests if in_sample(test, 4, str(number))} for number in range(40)]
    assert set().union(*taken) == set(tests)
    assert all(len(tests) / 8 < len(part) < len(tests) / 2 for part in taken)
    assert {test for test in tests if in_sample(test, 1, "any")} == set(tests)
    # Parameters are chosen one by one, and the group that a worker adds changes nothing.
    cases = [f"{tests[0]}[{number}]" for number in range(100)]
    assert 0 < sum(in_sample(case, 4, "x") for case in cases) < 100
    assert all(in_sample(case, 4, "x") == in_sample(f"{case}@group", 4, "x") for case in cases)
