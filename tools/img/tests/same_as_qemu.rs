//! The same command lines through QEMU's programs and through ours: output, messages and exit
//! codes must be the same. Needs qemu-utils 10; without it there is nothing to compare with.
//!
//! Left out are usage errors that Debian's package words otherwise than the release does.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

mod pair;

use pair::{Pair, qemu_is_there, undated};

#[test]
fn dates_do_not_differ() {
    assert_eq!(
        undated("1  one  0 B 2025-11-22 23:59:59 00:00:00.000  --"),
        "1  one  0 B 0000-00-00 00:00:00 00:00:00.000  --"
    );
    assert_eq!(undated("12:00:00, ä 2025-11"), "12:00:00, ä 2025-11");
}

/// Runs the script's lines one by one in a directory of each program's own.
fn compare(script: &[&str]) {
    if !qemu_is_there() {
        return;
    }
    agree(&Pair::new(), script);
}

fn agree(pair: &Pair, script: &[&str]) {
    for line in script {
        let [ours, theirs] = pair.run(line);
        assert_eq!(ours, theirs, "left: ours, right: QEMU's, of: {line}");
    }
}

#[test]
fn creation() {
    compare(&[
        "qemu-img create -f qcow2 a 64M",
        "qemu-img create -f qcow2 -o help",
        "qemu-img create -f qcow2 -o help x",
        "qemu-img create -f raw -o help x",
        "qemu-img create -f luks -o help",
        "qemu-img create -f raw r 1000",
        "qemu-img create -f qcow2 -o cluster_size=1000 b 1M",
        "qemu-img create -f qcow2 -o cluster_size=4k,lazy_refcounts=on,refcount_bits=64 b 1M",
        "qemu-img create -f qcow2 -o compat=0.10 b 1M",
        "qemu-img create -f qcow2 -o compat=0.10,lazy_refcounts=on b 1M",
        "qemu-img create -f qcow2 -o compat=0.42 b 1M",
        "qemu-img create -f qcow2 -o extended_l2=on b 1M",
        "qemu-img create -f qcow2 -o extended_l2=on,cluster_size=8k b 1M",
        "qemu-img create -f qcow2 -o refcount_bits=3 b 1M",
        "qemu-img create -f qcow2 -o compression_type=zstd b 1M",
        "qemu-img create -f qcow2 -o compression_type=lz4 b 1M",
        "qemu-img create -f qcow2 -o preallocation=metadata b 1M",
        "qemu-img create -f qcow2 -o preallocation=some b 1M",
        "qemu-img create -f qcow2 -o lazy_refcounts=maybe b 1M",
        "qemu-img create -f qcow2 -o size=1x b",
        "qemu-img create -f qcow2 -o nosuch=1 b 1M",
        "qemu-img create -f qcow2 b",
        "qemu-img create -f qcow2 -o size=1M b 1M",
        "qemu-img create -f nosuch b 1M",
        "qemu-img create -f qcow2 -b a c",
        "qemu-img create -f qcow2 -b a -F qcow2 c",
        "qemu-img create -f qcow2 -b a -F qcow2 c 128M",
        "qemu-img create -f qcow2 -b nosuch -F qcow2 c",
        "qemu-img create -f qcow2 -u -b nosuch -F qcow2 c 1M",
        "qemu-img create -f qcow2 -b c -F qcow2 c",
        "qemu-img create -f raw -b a r 1M",
        "qemu-img create -q -f qcow2 d 1M",
        "qemu-img create",
        "qemu-img create -f raw r 1M extra",
        "qemu-img create -f qcow2 -o data_file=d.raw,data_file_raw=on e 1M",
        "qemu-img create -f qcow2 -o data_file_raw=on e 1M",
        "qemu-img create -f qcow2 nodir/x 1M",
        "qemu-img create -f qcow2 -o backing_fmt=raw g 1M",
        "qemu-img create -f qcow2 -o backing_fmt= g 1M",
        "qemu-img create -f qcow2 -o encrypt.key-secret=s g 1M",
        "qemu-img create -f qcow2 -o encrypt.format=x g 1M",
        "qemu-img measure -O luks --size 1M",
    ]);
}

#[test]
fn information() {
    compare(&[
        "qemu-img create -q -f qcow2 a 64M",
        "qemu-io -c 'write 0 64k' a",
        "qemu-img create -q -f qcow2 -b a -F qcow2 b",
        "qemu-img info a",
        "qemu-img info --output=json a",
        "qemu-img info b",
        "qemu-img info --backing-chain b",
        "qemu-img info --backing-chain --output=json b",
        "qemu-img info nosuch",
        "qemu-img info",
        "qemu-img info a b",
        "qemu-img info -f raw a",
        "qemu-img info -f vmdk2 a",
        "qemu-img info --image-opts driver=qcow2,file.filename=a",
        "qemu-img info json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"a\"}}",
        "qemu-img snapshot -c one a",
        "qemu-img snapshot -c two a",
        "qemu-img info a",
        "qemu-img bitmap --add a bits",
        "qemu-img bitmap --add -g 4k a fine",
        "qemu-img bitmap --disable a fine",
        "qemu-img info a",
        "qemu-img info --output=json a",
        "qemu-img create -q -f qcow2 -o compat=0.10 old 1M",
        "qemu-img info old",
        "qemu-img info --output=json old",
        "qemu-img create -q -f raw r 1M",
        "qemu-img info r",
        "qemu-img info --output=json r",
        "qemu-img create -q -f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 l 1M",
        "qemu-img info l",
        "qemu-img info --output=json l",
        "qemu-img resize --object secret,id=s,data=x --image-opts driver=luks,key-secret=s,file.filename=l 2M",
        "qemu-img info l",
    ]);
}

#[test]
fn maps_and_comparisons() {
    compare(&[
        "qemu-img create -q -f qcow2 base 1M",
        "qemu-img create -q -f qcow2 -b base -F qcow2 top 2M",
        "qemu-io -c 'write 0 128k' base",
        "qemu-io -c 'write 64k 64k' -c 'write -z 256k 64k' top",
        "qemu-img map base",
        "qemu-img map top",
        "qemu-img map --output=json base",
        "qemu-img map --output=json top",
        "qemu-img map --output=json -s 64k -l 100k top",
        "qemu-io -c map -c 'alloc 0 1M' -c 'alloc 65k' top",
        "qemu-img compare base top",
        "qemu-img compare -s base top",
        "qemu-img compare -q base base",
        "qemu-img compare base base",
        "qemu-img compare base nosuch",
        "qemu-img compare base",
        "qemu-io -c 'write -P 1 512k 512' top",
        "qemu-img compare base top",
        "qemu-img convert -c -O qcow2 top packed",
        "qemu-img map packed",
        "qemu-img map --output=json packed",
        "qemu-img compare top packed",
        "qemu-img convert -O raw top flat",
        "qemu-img compare -f raw flat top",
        "qemu-img map --output=json flat",
    ]);
}

#[test]
fn conversion_refuses_what_cannot_be() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-img convert a",
        "qemu-img convert",
        "qemu-img convert -O nosuch a b",
        "qemu-img convert -c -O raw a b",
        "qemu-img convert -n a b",
        "qemu-img convert -n -o x=y a b",
        "qemu-img convert -S 100 a b",
        "qemu-img convert -l nosuch a b",
        "qemu-img convert --target-image-opts a b",
        "qemu-img convert --target-is-zero a b",
        "qemu-img convert --skip-broken-bitmaps a b",
        "qemu-img convert -t nosuch a b",
        "qemu-img convert -T nosuch a b",
        "qemu-img convert -O qcow2 -B a a b",
        "qemu-img convert -O qcow2 -B a -F qcow2 a a b",
        "qemu-img convert -O qcow2 -o help",
        "qemu-img convert -O raw a r",
        "qemu-img create -q -f raw small 512k",
        "qemu-img convert -n a small",
        "qemu-img convert -f raw -O raw nosuch b",
    ]);
}

#[test]
fn changing_images() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-img resize a +1M",
        "qemu-img resize a 1M",
        "qemu-img resize --shrink a 1M",
        "qemu-img resize a -2M",
        "qemu-img resize a 1x",
        "qemu-img resize --preallocation=metadata a +1M",
        "qemu-img resize --preallocation=none a +1M",
        "qemu-img snapshot -c one a",
        "qemu-img snapshot -c two -q a",
        "qemu-img snapshot -a three a",
        "qemu-img snapshot -d three a",
        "qemu-img snapshot -a one a",
        "qemu-img snapshot -d one a",
        "qemu-img snapshot -l -c x a",
        "qemu-img snapshot -d two a",
        "qemu-img amend -o compat=0.10 a",
        "qemu-img amend -o help a",
        "qemu-img amend -f raw -o help",
        "qemu-img amend a",
        "qemu-img amend -o nosuch=1 a",
        "qemu-img amend -o cluster_size=4k a",
        "qemu-img amend -o backing_file=x a",
        "qemu-img amend -o refcount_bits=7 a",
        "qemu-img commit a",
        "qemu-img create -q -f qcow2 -b a -F qcow2 b",
        "qemu-img commit -b nosuch b",
        "qemu-img commit b",
        "qemu-img commit -q -d b",
        "qemu-img rebase b",
        "qemu-img rebase -b nosuch -F qcow2 b",
        "qemu-img rebase -u -b nosuch b",
        "qemu-img rebase -u -b nosuch -F nosuch b",
        "qemu-img rebase -u -b other -F qcow2 b",
        "qemu-img info b",
        "qemu-img rebase -u -b '' b",
        "qemu-img check b",
        "qemu-img check --output=json b",
        "qemu-img check -f raw b",
        "qemu-img bitmap --add b x",
        "qemu-img bitmap --add b x",
        "qemu-img bitmap --remove b y",
        "qemu-img bitmap --add -g 1000 b y",
        "qemu-img bitmap b y",
        "qemu-img bitmap -g 4k --clear b x",
        "qemu-img bitmap --merge y b x",
        "qemu-img bitmap --clear --disable --remove b x",
        "qemu-img measure -O qcow2 b",
        "qemu-img measure --size 1G -O qcow2",
        "qemu-img measure --size 1G --output=json",
        "qemu-img measure --size 1G -O qcow2 -o cluster_size=4k",
        "qemu-img measure --size 1G -O qcow2 -o nosuch=1",
        "qemu-img measure --size 1G -O qcow2 -o compression_type=none",
        "qemu-img measure --size 1G -O qcow2 -o compat=0.10,lazy_refcounts=on",
        "qemu-img measure --size 1G -O qcow2 -o compat=0.42",
        "qemu-img measure --size 1G -O qcow2 -o preallocation=some",
        "qemu-img measure --size 1G -O qcow2 -o preallocation=full,backing_file=x",
        "qemu-img measure --size 1G -O qcow2 -o data_file_raw=on",
        "qemu-img measure --size 1G -O luks -o cipher-alg=none",
        "qemu-img measure",
        "qemu-img measure --size 1G b",
        "qemu-img dd if=b of=c bs=64k count=2 skip=1",
        "qemu-img dd if=b",
        "qemu-img dd if=b of=c nosuch=1",
        "qemu-img dd if=b of=c bs=0",
        "qemu-img nosuch",
        "qemu-img",
    ]);
}

#[test]
fn io_commands() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-io -c 'write -P 0x11 0 64k' -c 'read -P 0x11 0 64k' -c 'read -P 0x12 0 64k' a",
        "qemu-io -c 'read -v 0 20' -c 'read -v 65530 16' a",
        "qemu-io -c 'write -q 0 512' -c 'readv -v 0 8 8' a",
        "qemu-io -c 'read 1M 512' a",
        "qemu-io -c 'write 1M 512' a",
        "qemu-io -r -c 'write 0 512' a",
        "qemu-io -c 'read -s 1k 0 512' a",
        "qemu-io -c 'read -P 1 -s 1k -l 1k 0 512' a",
        "qemu-io -c 'write -P 300 0 512' a",
        "qemu-io -c 'write -zu 0 64k' -c 'write -n 0 1' -c 'write -u 0 1' -c 'write -zP 1 0 1' a",
        "qemu-io -c 'write -z 0 64k' -c 'discard 0 64k' -c map a",
        "qemu-io -c length -c info -c 'truncate 2M' -c length a",
        "qemu-img create -q -f raw r 1M",
        "qemu-io -f raw -c info r",
        "qemu-io -f file -c info r",
        "qemu-io --image-opts -c info driver=null-co",
        "qemu-io -c 'write x 1' -c 'write 1' -c 'nosuch' -c 'write 1 99999999999999999999' a",
        "qemu-io -c 'read 0 3G' a",
        "qemu-io -c 'writev 0 512 1k' -c 'writev 0' a",
        "qemu-io -c 'read 0 512'",
        "qemu-io -c 'open nosuch' -c 'read 0 512'",
        "qemu-io -c 'open a' -c 'read -q 0 512' -c close -c 'read 0 512'",
        "qemu-io -c 'open a' a",
        "qemu-io -c 'write -c 640k 64k' -c 'write -c 1 64k' -c 'read -P 0xcd 640k 64k' a",
        "qemu-io -c 'write 512k 64k' -c 'write -c 512k 64k' a",
        "qemu-img create -q -f qcow2 -o preallocation=metadata full 256k",
        "qemu-io -c 'write -c 64k 64k' full",
        "qemu-io -c 'write -c 0 512k' -c 'read -P 0 0 256k' full",
        "qemu-img create -q -f qcow2 empty 256k",
        "qemu-io -c 'write -c 0 512k' -c 'read -P 0 0 256k' empty",
        "qemu-img create -q -f raw plain 1M",
        "qemu-io -f raw -c 'write -c 0 0' -c 'write -c 0 64k' plain",
        "qemu-io -c 'write -b 0 64k' -c 'read -b -P 0xcd 0 64k' a",
        "qemu-io -c 'aio_write 0 64k' -c aio_flush -c 'aio_read -P 0xcd 0 64k' -c aio_flush a",
        "qemu-io -c 'write -s nosuch 0 512' a",
        "qemu-io -c 'help nosuch' -c quit -c length a",
        "qemu-io -c 'sleep x' -c 'sigraise 1000' a",
        "qemu-io -t nosuch a",
        "qemu-io nosuch",
        "qemu-io -c 'reopen -r -w' -c 'reopen -o nosuch=1' a",
    ]);
}

#[test]
fn benches() {
    compare(&[
        "qemu-img create -q -f raw r 64k",
        "qemu-img create -q -f raw empty 0",
        "qemu-img bench -c 0 nosuch",
        "qemu-img bench -c x nosuch",
        "qemu-img bench -c 1 -d 0 r",
        "qemu-img bench -c 1 -s 0 r",
        "qemu-img bench -c 1 -s 3G r",
        "qemu-img bench -c 1 -S -1 r",
        "qemu-img bench -c 1 --flush-interval=-1 r",
        "qemu-img bench -c 1 --flush-interval=1 r",
        "qemu-img bench -c 1 --pattern=256 -w r",
        "qemu-img bench -c 1 -o 1M -f raw r",
        "qemu-img bench -c 3 -d 1 -o 62k -f raw r",
        "qemu-img bench -c 3 -s 4k -S 40k -f raw r",
        "qemu-img bench -c 1 -f raw empty",
        "qemu-img bench -c 1 nosuch",
    ]);
}

#[test]
fn devices_without_a_size() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-img info /dev/null",
        "qemu-img info --output=json -f raw /dev/null",
        "qemu-img info --image-opts driver=host_device,filename=/dev/null",
        "qemu-img info --image-opts driver=raw,file.driver=file,file.filename=/dev/null",
        "qemu-img check /dev/null",
        "qemu-img map /dev/null",
        "qemu-img measure -O qcow2 /dev/null",
        "qemu-img compare /dev/null a",
        "qemu-img convert -O qcow2 /dev/null x",
        "qemu-img info x",
        "qemu-img convert -O raw a /dev/null",
        "qemu-img convert -n -O raw a /dev/null",
        "qemu-img create -f raw /dev/null 0",
        "qemu-img create -f raw /dev/null 1M",
        "qemu-img create -f qcow2 /dev/null 1M",
        "qemu-img create -f qcow2 -b /dev/null -F raw y 1M",
        "qemu-img resize -f raw /dev/null 1M",
        "qemu-io -f raw -c 'read 0 512' -c length /dev/zero",
        "qemu-img info /dev/tty",
    ]);
}

#[test]
fn holes_of_preallocated_images() {
    compare(&[
        "qemu-img create -q -f qcow2 -o preallocation=metadata a 8M",
        "qemu-img map a",
        "qemu-img map --output=json a",
        "qemu-io -c 'write 1M 64k' a",
        "qemu-img map --output=json a",
        "qemu-img measure -O qcow2 a",
        "qemu-img create -q -f qcow2 -b a -F qcow2 above",
        "qemu-img measure -O qcow2 above",
        "qemu-img create -q -f qcow2 empty 8M",
        "qemu-img compare -s a empty",
        "qemu-img compare a empty",
        "qemu-img convert -O qcow2 a b",
        "qemu-img map --output=json b",
    ]);
}

/// Clusters 5 and 6 have data; the refcounts are in cluster 2. Only a repair of all goes on where a
/// cluster in use counts as free.
#[test]
fn leaks_are_not_freed_by_refcounts_that_are_wrong() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-io -c 'write 0 128k' a",
        "qemu-io -f raw -c 'truncate 1M' -c 'write -P 1 131092 2' a",
        "qemu-img check a",
        "qemu-img check -r leaks a",
        "qemu-io -f raw -c 'write -P 1 131092 2' a",
        "qemu-io -f raw -c 'write -P 0 131084 2' a",
        "qemu-img check a",
        "qemu-img check -r leaks a",
        "qemu-img check --output=json -r leaks a",
        "qemu-img check a",
        "qemu-io -c 'read -P 0xcd 0 128k' a",
    ]);
}

#[test]
fn snapshots_are_not_applied_under_bitmaps() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-img snapshot -c one a",
        "qemu-img bitmap --add a bits",
        "qemu-img snapshot -a one a",
        "qemu-img bitmap --remove a bits",
        "qemu-img snapshot -a one a",
    ]);
}

#[test]
fn inconsistent_bitmaps_can_only_be_removed() {
    if !qemu_is_there() {
        return;
    }
    let pair = Pair::new();
    for line in [
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-img bitmap --add a bits",
        // The flags of QEMU's directory: in use, and enabled.
        "qemu-io -f raw -c 'write -P 3 327695 1' a",
    ] {
        pair.run(line);
    }
    std::fs::copy(pair.theirs().join("a"), pair.ours().join("a")).unwrap();
    let script = [
        "qemu-img info --output=json a",
        "qemu-img resize a 2M",
        "qemu-img resize --shrink a 512k",
        "qemu-img bitmap --clear a bits",
        "qemu-img bitmap --enable a bits",
        "qemu-img bitmap --disable a bits",
        "qemu-img bitmap --merge bits a bits",
        "qemu-img bitmap --add a bits",
        "qemu-img bitmap --remove a bits",
        "qemu-img resize a 2M",
    ];
    agree(&pair, &script);
}

/// Its name counts from the current directory, not from the image's.
#[test]
fn data_files_lie_where_the_command_line_says() {
    if !qemu_is_there() {
        return;
    }
    let pair = Pair::new();
    for dir in [pair.ours(), pair.theirs()] {
        std::fs::create_dir(dir.join("sub")).unwrap();
    }
    for line in [
        "qemu-img create -q -f qcow2 -o data_file=data sub/a 1M",
        "qemu-img create -q -f qcow2 -o data_file=sub/data sub/b 1M",
        "qemu-io -c 'write -P 5 0 64k' sub/a",
        "qemu-io -c 'write -P 6 0 64k' sub/b",
        "qemu-io -f raw -c 'read -P 5 0 64k' data",
        "qemu-io -f raw -c 'read -P 6 0 64k' sub/data",
        "qemu-img map --output=json sub/b",
    ] {
        let [ours, theirs] = pair.run(line);
        assert_eq!(ours, theirs, "left: ours, right: QEMU's, of: {line}");
        assert_eq!(ours.code, Some(0), "{ours:?}");
    }
    // Beside the image is where programs that run elsewhere look for it.
    std::fs::rename(pair.ours().join("data"), pair.ours().join("sub/data")).unwrap();
    let [ours, _] = pair.run("qemu-io -c 'read -P 5 0 64k' sub/a");
    assert_eq!(ours.code, Some(0), "{ours:?}");
}

#[test]
fn bitmaps_survive_amendments() {
    compare(&[
        "qemu-img create -q -f qcow2 a 1M",
        "qemu-img bitmap --add a bits",
        "qemu-io -c 'write 128k 64k' a",
        "qemu-img amend -o lazy_refcounts=on a",
        "qemu-img info --output=json a",
        "qemu-img amend -o refcount_bits=8 a",
        "qemu-img info --output=json a",
        "qemu-img amend -o lazy_refcounts=off,refcount_bits=64 a",
        "qemu-img info --output=json a",
        "qemu-img check -q a",
        "qemu-img bitmap --clear a bits",
    ]);
}

/// Version 2 has no mark for zeroes, which the new backing file would show through otherwise.
#[test]
fn zeroes_of_version_2_stay_zeroes_above_another_backing_file() {
    if !qemu_is_there() {
        return;
    }
    let pair = Pair::new();
    for (old, create) in [("shorter", "-b short -F qcow2 top 2M"), ("none", "top 2M")] {
        for line in [
            "qemu-img create -q -f qcow2 short 1M",
            "qemu-img create -q -f qcow2 new 2M",
            "qemu-io -c 'write -P 7 0 2M' new",
            &format!("qemu-img create -q -f qcow2 -o compat=0.10 {create}"),
            "qemu-img rebase -b new -F qcow2 top",
        ] {
            pair.run(line);
        }
        // With no old backing file, QEMU's loses them.
        let [ours, _] = pair.run("qemu-io -c 'read -P 0 0 2M' top");
        assert_eq!(ours.code, Some(0), "{old}: {ours:?}");
    }
}
