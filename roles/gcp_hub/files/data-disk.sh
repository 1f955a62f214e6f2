#!/bin/sh
# Runs at each start of the hub's VM: its data disk is mounted where the hub keeps its history. A disk with nothing on it
# gets a file system; any other is mounted as it is, or not at all. What came of it is in the guest attribute
# roverwatch/disk, where the controller looks.
set -eu
disk=/dev/disk/by-id/google-roverwatch
folder=/var/lib/roverwatch
fstab=/etc/fstab

say() {
    echo "$1"
    curl -sf -X PUT -H 'Metadata-Flavor: Google' --data "$1" --retry 5 --retry-connrefused --max-time 30 \
        http://metadata.google.internal/computeMetadata/v1/instance/guest-attributes/roverwatch/disk
}
why="it is not known why"
trap '[ "$?" -eq 0 ] || say "failed: $why"' EXIT

why="$disk is not there"
for _ in $(seq 30); do
    [ ! -e "$disk" ] || break
    sleep 1
done
[ -e "$disk" ]

# A new disk is empty. What may be on another one is in its first megabyte: a file system, partitions, a volume.
if cmp -s -n 1048576 "$disk" /dev/zero; then
    why="no file system could be made on $disk"
    mkfs.ext4 -q -m 0 -L roverwatch "$disk"
fi

# In fstab, so that it is mounted before the services start.
grep -q " $folder " "$fstab" ||
    echo "$disk $folder ext4 discard,nofail,x-systemd.device-timeout=30s 0 2" >>"$fstab"

# Without the disk they must not write below it: another history would begin on the small disk of the system, and be
# hidden the next time. So nobody can, not even root.
if ! mountpoint -q "$folder"; then
    mkdir -p "$folder"
    why="$folder has files on the disk of the system: move them away"
    [ -z "$(ls -A "$folder")" ]
    chattr +i "$folder"
    why="$disk could not be mounted on $folder: is it ext4?"
    systemctl daemon-reload
    mount "$folder"
fi

# The disk may have grown since the last time.
why="the file system on $disk could not grow"
resize2fs "$disk"
why="the controller could not be told"
say ready
