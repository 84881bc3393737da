import re


def test_teaches(run_script):
    printed = run_script()
    transfer = [float(number) for number in re.findall(r"transfer loss (\S+)", printed)]
    assert len(transfer) == 3
    assert transfer[-1] < transfer[0]
    assert float(re.search(r"test accuracy (\S+) %", printed)[1]) > 80
