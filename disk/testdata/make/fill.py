import os,sys,socket,fcntl,struct,random,subprocess,time
m=os.path.abspath(sys.argv[1]); mode=sys.argv[2]
r=random.Random(5)
def sh(*a): subprocess.run(a,check=True,stdout=subprocess.DEVNULL)
p=lambda n: os.path.join(m,n)
if mode=="fill":
    os.mkdir(p("dir")); os.mkdir(p("links"))
    for i in range(120):
        with open(p("dir/file-%03d-%s"%(i,"x"*r.randrange(0,60))),"wb") as f: f.write(r.randbytes(r.choice([0,10,300,1500,5000,20000])))
    open(p("linked"),"w").write("many names")
    for i in range(200): os.link(p("linked"),p("links/%s-%03d"%("name"*8,i)))
    os.symlink("target/of/link",p("symlink")); os.mkfifo(p("fifo"))
    os.mknod(p("chr"),0o020644,os.makedev(4,65)); os.mknod(p("blk"),0o060644,os.makedev(259,70000))
    s=socket.socket(socket.AF_UNIX); os.chdir(m); s.bind("sock"); s.close(); os.chdir("/")
    os.mkdir(p("a"*255))
    for n,v in [("user.a",b"1"),("user.long",b"v"*1500),("user.bin",bytes(range(256))),("trusted.t",b"t")]: os.setxattr(p("linked"),n,v)
    sh("setfacl","-m","u:1234:rw",p("linked")); sh("setfacl","-d","-m","g:99:rx",p("dir"))
    open(p("cap"),"wb").write(b"\x7fELF"); sh("setcap","cap_net_raw+ep",p("cap"))
    open(p("big"),"wb").write(r.randbytes(3<<20))
    with open(p("sparse"),"wb") as f: f.write(b"a"*9000); f.seek(1<<20); f.write(b"b"*5000)
    sh("fallocate","-l","1M",p("prealloc")); sh("fallocate","-n","-o","4M","-l","128K",p("prealloc"))
    with open(p("prealloc"),"r+b") as f: f.seek(65536); f.write(b"w"*8192)
    for n in ("clone1","clone2"): sh("cp","--reflink=always",p("big"),p(n))
    for i in range(30): sh("cp","--reflink=always",p("big"),p("dir/clone%d"%i))
    open(p("nocow"),"w"); sh("chattr","+C",p("nocow")); open(p("nocow"),"wb").write(b"n"*20000)
    sh("chattr","+i",p("chr")) if False else None
    os.utime(p("symlink"),ns=(-5*10**9+1,1234567890123456789),follow_symlinks=False)
    os.sync()
elif mode=="frag":
    for i in range(600):
        with open(p("frag%d"%i),"wb") as f: f.write(r.randbytes(4096))
    os.sync()
    for i in range(0,600,2): os.unlink(p("frag%d"%i))
    os.sync()
elif mode=="fsync":
    with open(p("fsynced"),"wb") as f: f.write(b"logged"*3000); f.flush(); os.fsync(f.fileno())
    os.rename(p("dir/file-000-"+[n for n in os.listdir(p("dir")) if n.startswith("file-000-")][0][9:]),p("dir/renamed"))
    with open(p("dir/renamed"),"ab") as f: f.write(b"more"); f.flush(); os.fsync(f.fileno())
    d=os.open(p("dir"),os.O_RDONLY); os.fsync(d)
