import struct,os
seen=set(); tot=0
os.makedirs("corpus",exist_ok=True)
for name in ["default","log","old","raid1","raid5","raid10","raid1c3","raid0","dup","single","mixed","n16k"]:
    f=open("nodes/"+name,"rb").read(); sb=f[:4096]; NS,=struct.unpack_from("<I",sb,0x94)
    out=[]
    for p in range(4096,len(f),NS):
        b=f[p:p+NS]; nr,=struct.unpack_from("<I",b,96); owner,=struct.unpack_from("<Q",b,88)
        kinds={("node",NS,b[100],owner if owner<256 or owner>2**63 else 256)} if name in("default","log","old","n16k") else set()
        if b[100]==0:
            for i in range(nr):
                o,t,k,off,sz=struct.unpack_from("<QBQII",b,101+25*i); d=b[101+off:101+off+sz]; sub=None
                if t==108 and sz>20: sub=(d[16],d[20],d[21:29]==bytes(8))
                if t==1: sub=(struct.unpack_from("<I",d,52)[0]>>12,struct.unpack_from("<Q",d,64)[0])
                if t in(168,169): sub=(d[16:24],d[24] if len(d)>24 else 0, len(d)>60)
                if t==228: sub=d[24:32]
                kinds.add((t,sub,sz.bit_length() if t not in(168,169,108,228,1,24,96,84,12) else 0,owner==2**64-6, struct.unpack_from("<H",sb,196)[0] if t==128 else 0))
        if kinds-seen: seen|=kinds; out.append(b)
    open("corpus/"+name,"wb").write(sb+b"".join(out)); tot+=len(out); print(name,len(out))
