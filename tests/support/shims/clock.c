/* The clock on the wall is moved by what a file says, in seconds; the clock that only goes forward is left alone.
 *
 * Preloaded: LD_PRELOAD=clock.so BTD_CLOCK_FILE=path. The file holds one 64-bit number. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t moved_by(void)
{
	static volatile int64_t *seconds;
	static int looked;

	if (!looked) {
		const char *path = getenv("BTD_CLOCK_FILE");
		int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
		void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
		if (page != MAP_FAILED)
			seconds = page;
		if (fd >= 0)
			close(fd);
		looked = 1;
	}
	return seconds ? *seconds : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += moved_by();
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec time;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &time);
	now->tv_sec = time.tv_sec;
	now->tv_usec = time.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	if (now)
		*now = time.tv_sec;
	return time.tv_sec;
}
