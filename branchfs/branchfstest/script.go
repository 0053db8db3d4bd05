package branchfstest

import (
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runScript is the role behind Script.
func runScript(args []string) error {
	s := script{path: args[0], fd: -1}
	for _, step := range args[1:] {
		words := strings.Fields(step)
		var nums []int64
		for _, w := range words[1:] {
			if n, err := strconv.ParseInt(w, 0, 64); err == nil {
				nums = append(nums, n)
			}
		}
		answer, err := s.step(words, nums)
		if errno, ok := err.(unix.Errno); ok {
			answer, err = unix.ErrnoName(errno), nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		fmt.Println(answer)
	}
	return nil
}

// runParallel is the role behind Parallel.
func runParallel(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", args[0], err)
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	results := make(chan error)
	for i := range n {
		go func() {
			buf, off := alignedBuffer(4096), int64(i)<<20
			var err error
			if args[1] == "w" {
				_, err = unix.Pwrite(fd, buf, off)
			} else {
				_, err = unix.Pread(fd, buf, off)
			}
			results <- err
		}()
	}
	var first error
	for range n {
		if err := <-results; first == nil {
			first = err
		}
	}
	return first
}

type script struct {
	path string
	fd   int
}

func (s *script) step(words []string, nums []int64) (answer string, err error) {
	switch words[0] {
	case "open":
		flags := map[string]int{"rd": unix.O_RDONLY, "rdwr": unix.O_RDWR, "direct": unix.O_RDWR | unix.O_DIRECT}[words[1]]
		s.fd, err = unix.Open(s.path, flags|unix.O_CLOEXEC, 0)
	case "pread":
		buf := alignedBuffer(int(nums[1]))
		var n int
		n, err = unix.Pread(s.fd, buf, nums[0])
		if err == nil {
			return runs(buf[:n]), nil
		}
	case "pwrite":
		buf := alignedBuffer(int(nums[1]))
		for i := range buf {
			buf[i] = byte(nums[2])
		}
		var n int
		n, err = unix.Pwrite(s.fd, buf, nums[0])
		if err == nil && n != len(buf) {
			return "short " + strconv.Itoa(n), nil
		}
	case "fsync":
		err = unix.Fsync(s.fd)
	case "fallocate":
		err = unix.Fallocate(s.fd, uint32(nums[0]), nums[1], nums[2])
	case "ftruncate":
		err = unix.Ftruncate(s.fd, nums[0])
	case "fchmod":
		err = unix.Fchmod(s.fd, uint32(nums[0]))
	case "fstat":
		var st unix.Stat_t
		if err = unix.Fstat(s.fd, &st); err == nil {
			return fmt.Sprintf("mode %o size %d blksize %d", st.Mode, st.Size, st.Blksize), nil
		}
	case "discard":
		err = blockRange(s.fd, unix.BLKDISCARD, nums)
	case "zeroout":
		err = blockRange(s.fd, unix.BLKZEROOUT, nums)
	case "mmap":
		_, err = unix.Mmap(s.fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	case "close":
		err = unix.Close(s.fd)
	default:
		return "", fmt.Errorf("unknown step")
	}
	return "ok", err
}

// blockRange makes an ioctl that takes an offset and a length.
func blockRange(fd int, op uint, nums []int64) error {
	arg := [2]uint64{uint64(nums[0]), uint64(nums[1])}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(op), uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// alignedBuffer returns n bytes that direct I/O accepts.
func alignedBuffer(n int) []byte {
	buf := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(&buf[0]))) & 4095
	return buf[skip : skip+n]
}

// runs describes p by its runs of equal bytes.
func runs(p []byte) string {
	var out []string
	for len(p) > 0 {
		n := 1
		for n < len(p) && p[n] == p[0] {
			n++
		}
		out = append(out, fmt.Sprintf("%d*x%02x", n, p[0]))
		p = p[n:]
	}
	if out == nil {
		return "nothing"
	}
	return strings.Join(out, " ")
}
