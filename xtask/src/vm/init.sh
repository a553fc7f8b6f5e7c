#!/bin/sh
# The first process of the virtual machine: busybox's shell, and what it needs from busybox. The root is
# in memory, and may be written to.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp CI=true
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do insmod "$module"; done
uname -rv
cd /tmp
/test-command
echo "exit status of the tests: $?"
poweroff -f
