from qpu.lang.surface import *
from qpu.lang import surface
from qpu.lang.source import Source
from qpu.lang.compile import to_kir
from qpu.lang.kir import walk, Loop, Skip
from qpu.lang.interp import Interpreter
import numpy as np
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.errors import CompileError
def dump(region, ind=0, names={}):
    for v in region.ops:
        n=names.setdefault(id(v), f"%{len(names)}")
        a=", ".join(names.get(id(x),"?") for x in v.args)
        extra="" if isinstance(v.attr,(Loop,Skip)) or v.attr is None else f" {v.attr}"
        print(" "*ind+f"{n}:{v.type}{'~' if v.varying else ''} = {v.op}({a}){extra}")
        if isinstance(v.attr,(Loop,Skip)):
            for p in v.attr.region.parameters: names[id(p)]=f"%p{len(names)}"
            print(" "*ind+"  params", [names[id(p)]+p.type for p in v.attr.region.parameters])
            dump(v.attr.region, ind+4, names)
            print(" "*ind+"  yield", [names.get(id(y),"?") for y in v.attr.yields], "cond", names.get(id(v.attr.cond)) if isinstance(v.attr,Loop) else "")
            for r in v.attr.results: names[id(r)]=f"%r{len(names)}"
def saxpy(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = a * x[i] + y[i]
def mandel(k: Grid, w: i32, scale: f32, out: Out[i32]) -> None:
    i = k.index(out.size)
    cx = f32(i % w) * scale - 2.0
    cy = f32(i // w) * scale - 1.5
    zx = 0.0
    zy = 0.0
    n = 0
    while n < 50 and zx * zx + zy * zy < 4.0:
        zx, zy = zx * zx - zy * zy + cx, 2.0 * zx * zy + cy
        n += 1
    out[i] = n
def soft(k: Grid, t: f32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = x[i]
    if v > t:
        y[i] = v - t
    elif v < -t:
        y[i] = v + t
    else:
        y[i] = 0.0
def dot(k: Team, x: In[f32], y: In[f32], part: Out[f32]) -> None:
    acc = f32(0)
    for i in k.items(x.size):
        acc += x.get(i, 0) * y.get(i, 0)
    part[k.worker] = k.sum(acc)
def brk(k: Grid, x: In[i32], out: Out[i32]) -> None:
    i = k.index()
    s = 0
    for j in range(x[i]):
        if j == 7:
            break
        if j % 2 == 0:
            continue
        s += j
    out[i] = s
def blur(k: Grid, src: In2[f32], dst: Out2[f32]) -> None:
    r, c = k.index(*dst.shape)
    acc = 0.0
    for dr in range(3):
        for dc in range(3):
            acc += src.clamp[r + dr - 1, c + dc - 1]
    dst[r, c] = acc / 9.0
def run(fn, consts={}, workers=4, coarsen=4, layout="quad", show=True, isa="v3d71", **args):
    s=Source.of(fn); k=to_kir(s, isa, consts, coarsen=coarsen, layout=layout)
    if show: dump(k.region, 0, {})
    params={}; mem=[]; names=[]
    for p in k.parameters[1:]:
        v=args.get(p.name)
        if p.kind=="array":
            for a,n in enumerate(v.shape): params[f"{p.name}.shape{a}"]=n
            for a in range(v.ndim-1): params[f"{p.name}.stride{a}"]=v.strides[a]
            params[f"{p.name}.base"]=0; mem.append(v.reshape(-1).view(np.uint8)); names.append(p.name)
        elif p.kind=="scalar":
            params[p.name]=int(np.float32(v).view(np.uint32)) if p.type=="f32" else v
    Interpreter(k.region, params, mem, workers, NumpyLanes(), names=names).run()
