# nodes.py OUT IMAGE...: selects tree blocks of one btrfs so that every kind of item is there
import struct,sys,os
out=sys.argv[1]; devs={}
for n in sys.argv[2:]:
    f=open(n,"rb"); f.seek(65536); sb=f.read(4096); devs[struct.unpack_from("<Q",sb,201)[0]]=f
    best=sb
sb=best
NS,=struct.unpack_from("<I",sb,0x94)
chunks=[]
def addchunk(log,b):
    ln,=struct.unpack_from("<Q",b,0); dev,off=struct.unpack_from("<QQ",b,48); chunks.append((log,ln,dev,off))
n,=struct.unpack_from("<I",sb,0xa0); p=0x32b; end=p+n
while p<end:
    log,=struct.unpack_from("<Q",sb,p+9); ns,=struct.unpack_from("<H",sb,p+17+44); addchunk(log,sb[p+17:]); p+=17+48+32*ns
def read(l):
    for a,n,d,o in chunks:
        if a<=l<a+n: f=devs[d]; f.seek(o+l-a); return f.read(NS)
    raise Exception(l)
nodes={}
def walk(l):
    b=read(l); nr,=struct.unpack_from("<I",b,96); lv=b[100]; nodes[l]=b
    for i in range(nr):
        if lv: yield from walk(struct.unpack_from("<Q",b,101+33*i+17)[0])
        else:
            o,t,k,off,sz=struct.unpack_from("<QBQII",b,101+25*i); yield (o,t,k),b[101+off:101+off+sz]
for k,d in walk(struct.unpack_from("<Q",sb,0x58)[0]):
    if k[1]==228: addchunk(k[2],d)
roots=[struct.unpack_from("<Q",d,176)[0] for k,d in walk(struct.unpack_from("<Q",sb,0x50)[0]) if k[1]==132]
log,=struct.unpack_from("<Q",sb,0x60)
if log: roots+=[struct.unpack_from("<Q",d,176)[0] for k,d in walk(log) if k[1]==132]
for r in roots:
    for _ in walk(r): pass
seen=set(); keep=[]
for l in sorted(nodes):
    b=nodes[l]; nr,=struct.unpack_from("<I",b,96); owner,=struct.unpack_from("<Q",b,88)
    kinds={("node",b[100],owner if owner<256 or owner>2**63 else 256)}
    if b[100]==0:
        for i in range(nr):
            o,t,k,off,sz=struct.unpack_from("<QBQII",b,101+25*i); d=b[101+off:101+off+sz]
            sub=None
            if t==108 and sz>20: sub=(d[16],d[20],d[21:29]==bytes(8))
            if t==1: sub=(struct.unpack_from("<I",d,52)[0]>>12,struct.unpack_from("<Q",d,64)[0])
            if t in(168,169): sub=(d[16:24],d[24] if len(d)>24 else 0, len(d)>60)
            if t==228: sub=d[24:32]
            kinds.add((t,sub,sz.bit_length() if t not in(168,169,108,228,1) else 0,owner==2**64-6))
    if kinds-seen: seen|=kinds; keep.append(l)
with open(out,"wb") as f:
    f.write(sb)
    for l in keep: f.write(nodes[l])
print(out,len(nodes),"nodes",len(keep),"kept", sorted({k[0] for k in seen if k[0]!="node"}))
