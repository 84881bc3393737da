"""draft"""
import re, sys, time, argparse, traceback
from collections import Counter
from unittest.mock import patch
from fuzz_cases import make_case
import torch
from svdistill.errors import SVDistillError
from svdistill.linalg.solvers import SOLVERS
from svdistill.linalg import watch_convergence

def run(case):
    student = [f.clone().requires_grad_() for f in case.student]
    logits = case.student_logits.clone().requires_grad_()
    with patch.dict(SOLVERS, auto=SOLVERS[case.solver]):
        try:
            k = case.loss.extract(case.teacher, case.teacher_logits)
            loss = case.loss(student, logits, k)
            if not loss.isfinite():
                # direct: nothing must come out of it silently
                pass
            loss.backward()
        except SVDistillError as e:
            return ("error" if re.search(r"\btaps? |logits", str(e)) else "unnamed"), str(e)
        except Exception as e:
            return "crash", "".join(traceback.format_exception(e)[-3:])
    grads = [t.grad for t in (*student, logits) if t.grad is not None]
    bad = [i for i,g in enumerate(grads) if not g.isfinite().all()]
    if bad: return "silent", f"loss {float(loss)} grads {bad} nan {[bool(g.isnan().any()) for g in grads]}"
    if not loss.isfinite(): return "silent", "loss"
    return "finite", ""

if __name__ == "__main__":
    torch.set_num_threads(1)
    seed=int(sys.argv[1]); a=int(sys.argv[2]); b=int(sys.argv[3])
    c=Counter(); t=time.time()
    for n in range(a,b):
        case=make_case(seed,n)
        s=time.time()
        o,said=run(case)
        c[o, case.kind]+=1
        if o not in("finite","error"): print(n,o,case,said[-300:],flush=True)
        if time.time()-s>2: print("slow",n,time.time()-s,case)
    for k,v in sorted(c.items()): print(k,v)
    print(time.time()-t)
