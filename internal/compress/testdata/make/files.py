# writes the file set for the compression goldens
import os,sys,random
d=sys.argv[1]
r=random.Random(42)
words=[bytes(r.choice(b"etaoinshrdlucmfwypvbgkqjxz") for _ in range(r.randint(2,9))) for _ in range(80)]
def text(n):
    b=b""
    while len(b)<n: b+=r.choice(words)+(b"\n" if r.random()<.1 else b" ") if r.random()<.7 else b.split()[-1] + b" " if b and r.random()<.5 else b"the same phrase comes back, "
    return b[:n]
files={
 "text128k": text(131072),
 "zeros": bytes(131072),
 "tail5000": text(5000),
 "tail": text(45000+313),
 "mixed": b"".join((text(2048) if i%2 else r.randbytes(2048)) for i in range(16)),
 "runs": b"".join(bytes([r.randrange(256)])*r.randrange(1,700) for _ in range(250)),
 "inline100": b"ab"*50,
 "inline1900": text(1900),
 "incompressible": r.randbytes(4096)+bytes(8192)+r.randbytes(1000),
}
for n,b in files.items():
    open(os.path.join(d,n),"wb").write(b)
