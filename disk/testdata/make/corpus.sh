set -e
rmount(){ for i in 1 2 3 4 5; do mount "$@" && return; sleep 1; done; return 1; }
rm -rf nodes; mkdir nodes
U=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee
# 1: the defaults, quotas, snapshots, receive, log tree
truncate -s 300M d.img; mkfs.btrfs -f -q -n 4096 -m single -d single d.img >/dev/null
rmount -o loop,compress-force=zstd d.img m
python3 fill.py m fill; btrfs subvolume create m/sub >/dev/null; cp m/dir/file* m/sub; btrfs subvolume snapshot -r m/sub m/snap >/dev/null
btrfs quota enable m; btrfs qgroup create 1/0 m; btrfs qgroup assign 0/256 1/0 m; btrfs qgroup limit 100M 0/256 m; sync
btrfs send -q m/snap 2>/dev/null | btrfs receive -q m/links
btrfs subvolume set-default 256 m; btrfs device stats -z m >/dev/null; python3 fill.py m frag; sync
exec 9>m/orphan; echo x >&9; rm m/orphan; sync
python3 fill.py m fsync
cp --sparse=always d.img log.img; exec 9>&-
umount m
python3 nodes.py nodes/default d.img; python3 nodes.py nodes/log log.img; rm log.img d.img
# 2: none of the newer features, v1 cache
truncate -s 300M d.img; mkfs.btrfs -f -q -n 4096 -m single -d single --csum xxhash -O ^skinny-metadata,^extref,^no-holes -R ^free-space-tree d.img >/dev/null
rmount -o loop,space_cache=v1,compress-force=lzo d.img m; sed 's/range(200)/range(60)/' fill.py > fill2.py; python3 fill2.py m fill; btrfs subvolume snapshot m m/snap >/dev/null; python3 fill2.py m frag; umount m
python3 nodes.py nodes/old d.img; rm d.img
# 3: profiles, simple quotas, balance
for i in 1 2 3 4 5 6; do truncate -s 3G e$i.img; done
mkfs.btrfs -f -q -n 4096 -m raid1c4 -d raid6 --csum sha256 e?.img >/dev/null 2>&1
L=""; for i in 1 2 3 4 5 6; do L="$L $(losetup -f --show e$i.img)"; done; btrfs device scan $L >/dev/null
rmount $(echo $L | cut -d' ' -f1) m
python3 - <<'PY'
import fcntl,struct,os
fd=os.open("m",os.O_RDONLY); fcntl.ioctl(fd,0xc0109428,struct.pack("<QQ",4,0)) # QUOTA_CTL enable simple
PY
python3 fill.py m fill
btrfs subvolume snapshot m m/snap >/dev/null; btrfs balance start -m m >/dev/null; echo hi > m/snap/new; rm m/dir/clone*; sync
for p in raid5 raid10 raid1 raid1c3 raid0 dup single; do btrfs balance start -f -dconvert=$p m >/dev/null; btrfs balance start -m --bg m >/dev/null 2>&1 || true; head -c 1M /dev/urandom > m/r-$p; sync; btrfs inspect-internal dump-tree -t chunk $(echo $L | cut -d' ' -f1) >/dev/null; for i in 1 2 3 4 5 6; do cp --sparse=always e$i.img s$i.img; done; python3 nodes.py nodes/$p s?.img; rm s?.img; done
umount m; losetup -d $L; rm e?.img
# 4: mixed, blake2
truncate -s 120M d.img; mkfs.btrfs -f -q -M -n 4096 --csum blake2 d.img >/dev/null; rmount -o loop,compress=zlib d.img m; cp -r /usr/share/doc/bash m/; umount m; python3 nodes.py nodes/mixed d.img; rm d.img
# 5: 16K nodes
truncate -s 300M d.img; mkfs.btrfs -f -q d.img >/dev/null; rmount -o loop d.img m; cp -r /usr/lib/python3/dist-packages m/ 2>/dev/null || cp -r /usr/share/perl m/; umount m; python3 nodes.py nodes/n16k d.img; cp d.img bench.img; rm d.img
