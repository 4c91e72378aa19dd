#!/harness/busybox sh
# The guest's first process. It takes commands from the host on the second serial line and answers there; the first one
# is the kernel's console. The parts of the harness are in /harness, so that the rest of the file system can be an image's,
# whose programs are found first.
#   host:   NUMBER COMMAND           a line for the shell
#   guest:  its output, then "@done NUMBER STATUS"
# `job NAME COMMAND` runs a command beside the others; its lines are "@NAME TEXT", the last one "@NAME exit STATUS".
/harness/busybox mount -t proc proc /proc
/harness/busybox --install -s /harness/bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/bin:/sbin:/harness/bin LC_ALL=C HOME=/tmp
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
ln -s /proc/self/fd /dev/fd
for module in /harness/modules/*; do insmod "$module"; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

job() {
    name=$1
    shift
    { { eval "$*"; printf '\nexit %s\n' $?; } 2>&1 < /dev/null | while IFS= read -r text; do
        [ -z "$text" ] || echo "@$name $text"
    done; } &
}

stty -F /dev/ttyS1 raw -echo
exec 3<> /dev/ttyS1
read -r uptime _ < /proc/uptime
echo "@done 0 0 $uptime" >&3
# A read that a signal interrupts loses what it has read, and the first process gets one for every orphan that ends. So
# a process of its own reads, whose only child is the command that it waits for.
(
    while read -r number command <&3; do
        (eval "$command") < /dev/null >&3 2>&1
        printf '\n@done %s %s\n' "$number" $? >&3
    done
)
poweroff -f
