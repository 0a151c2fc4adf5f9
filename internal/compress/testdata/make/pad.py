import random,sys
r=random.Random(7)
W=[bytes(r.choices(b"abcdefgh",k=r.randrange(5,20))) for _ in range(40)]
for i in range(3000):
    b=b"".join((b" ".join(r.choices(W,k=30)) if r.random()<.6 else r.randbytes(r.randrange(1,300))) for _ in range(80))[:16384]
    open(sys.argv[1]+"/p%04d"%i,"wb").write(b)
