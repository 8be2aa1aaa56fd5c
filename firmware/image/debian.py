"""What of Debian a box uses: what starts, what never does, what is left out of root and initrd."""

from __future__ import annotations

ENABLED = (
    "scanside.service",
    "scanside-labels.service",
    "scanside-wipe.service",
    "scanside-data.service",
    "scanside-prepare.service",
    "scanside-firewall.service",
    "scanside-confirm.service",
    "scanside-deadline.timer",
    "scanside-inbox.path",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
)
MASKED = (
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "console-getty.service",
    "getty.target",
    "emergency.service",
    "rescue.service",
    "debug-shell.service",
    "systemd-firstboot.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-repart.service",
    "systemd-pcrphase-sysinit.service",
    # What a box has no use for, and each start would wait for.
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "modprobe@fuse.service",
    "dev-hugepages.mount",
    "dracut-shutdown.service",
    "systemd-journal-catalog-update.service",
    "systemd-network-generator.service",
    "systemd-networkd-persistent-storage.service",
    "systemd-pcrmachine.service",
    "systemd-update-done.service",
    "systemd-initctl.socket",
)
# Programs that make units at each start, for what no box has.
NO_GENERATORS = (
    "cryptsetup",
    "debug",
    "getty",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "run",
    "ssh",
    "system-update",
    "sysv",
)
DROPPED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "var/cache",
    "var/lib/apt",
    "var/log",
    "boot",
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/ssh",
    "usr/share/i18n",
)
# What of the tools' tree runs on a box: the loader, and what starts the kernel within its signed file.
LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
# The initrd finds the root and checks it. Firmware and stub hash all of it, several times, before it starts.
NOT_IN_INITRD = (
    "network network-manager nfs iscsi multipath lvm mdraid plymouth crypt resume biosdevname hwdb terminfo nvdimm "
    "overlay-root lunmask kernel-modules-extra systemd-pcrphase"
)
NO_DRIVERS = "bcache bcachefs btrfs xfs cifs ceph libceph drbd sunrpc target_core_mod dm-vdo dm-cache dm-era hid-.*"
