# extract.py IMAGE OUTDIR PREFIX: copies the compressed extents of every file in the top-level
# subvolume of a one-device, all-single btrfs; prints one line per extent.
import struct,sys,hashlib,os
img,out,pre,files=sys.argv[1:5]
f=open(img,"rb")
def at(o,n): f.seek(o); return f.read(n)
sb=at(65536,4096)
chunks=[]
def addchunk(log,b):
    ln,=struct.unpack_from("<Q",b,0); dev,off=struct.unpack_from("<QQ",b,48); chunks.append((log,ln,off))
n,=struct.unpack_from("<I",sb,0xa0); p=0x32b
end=p+n
while p<end:
    log,=struct.unpack_from("<Q",sb,p+9); ns,=struct.unpack_from("<H",sb,p+17+44); addchunk(log,sb[p+17:]); p+=17+48+32*ns
def phys(l):
    for a,n,o in chunks:
        if a<=l<a+n: return o+l-a
    raise Exception(l)
NS,=struct.unpack_from("<I",sb,0x94)
def walk(l):
    b=at(phys(l),NS); nr,=struct.unpack_from("<I",b,96); lv=b[100]
    for i in range(nr):
        if lv:
            yield from walk(struct.unpack_from("<Q",b,101+33*i+17)[0])
        else:
            o,t,k,off,sz=struct.unpack_from("<QBQII",b,101+25*i); yield (o,t,k),b[101+off:101+off+sz]
for k,d in walk(struct.unpack_from("<Q",sb,0x58)[0]):
    if k[1]==228: addchunk(k[2],d)
root=[struct.unpack_from("<Q",d,176)[0] for k,d in walk(struct.unpack_from("<Q",sb,0x50)[0]) if k[:2]==(5,132)][0]
names={}
items=list(walk(root))
for k,d in items:
    if k[1]==12: names[k[0]]=d[10:].decode()
for k,d in items:
    if k[1]!=108: continue
    gen,ram,comp,enc,oth,typ=struct.unpack_from("<QQBBHB",d,0)
    if not comp: continue
    if typ==0: blob=d[21:]
    else:
        db,dn,off,num=struct.unpack_from("<QQQQ",d,21); assert off==0; blob=at(phys(db),dn)
    plain=open(os.path.join(files,names[k[0]]),"rb").read()[k[2]:k[2]+ram]
    frame=len(plain); plain+=bytes(ram-len(plain))
    n=f"{pre}-{names[k[0]]}"+(f"-{k[2]}" if k[2] else "")
    open(os.path.join(out,n),"wb").write(blob)
    print(n,["none","zlib","lzo","zstd"][comp],"inline" if typ==0 else "regular",ram,frame,hashlib.sha256(plain).hexdigest())
