#!/bin/busybox sh
# Process 1 of a microVM, until the tree that the host shows it is its root.
# Whatever goes wrong ends it: process 1 is gone, the kernel panics, and QEMU ends.

busybox=/bin/busybox
fail() {
    echo "mulligan: $1"
    $busybox reboot -f
}

[ -z "$mulligan_trial" ] || $busybox reboot -f

$busybox mount -t devtmpfs dev /dev || fail "there is no /dev"
while read -r module; do
    $busybox insmod "/modules/$module" || fail "module $module cannot be loaded"
done < /modules/order

rounds=0
until [ -c /dev/vport0p1 ]; do
    rounds=$((rounds + 1))
    [ $rounds -lt 1000 ] || fail "the port to the host does not appear"
    $busybox usleep 5000
done
$busybox mount -t virtiofs mulligan /tree || fail "the tree of the host cannot be mounted"
$busybox mount -t proc proc /tree/proc || fail "there is no /proc"
$busybox mount --move /dev /tree/dev
exec $busybox switch_root /tree /bin/sh /.microvm/start
