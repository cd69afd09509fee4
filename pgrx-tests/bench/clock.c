/* Loaded into a benchmark's server (LD_PRELOAD): moves its wall clock by the number of microseconds in
 * the file that AUDIT_CLOCK names, which the benchmark changes while the server runs. So days of a
 * trail are written in minutes, by the same code as ever. The monotonic clock stays. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int (*next_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void find(void)
{
	const char *name = getenv("AUDIT_CLOCK");
	int file = name ? open(name, O_RDONLY) : -1;
	void *page;
	next_clock = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	if (file < 0)
		return;
	page = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (page != MAP_FAILED)
		offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int done = next_clock(clock, now);
	if (done == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
		int64_t moved = now->tv_nsec / 1000 + *offset % 1000000;
		now->tv_sec += *offset / 1000000;
		if (moved < 0) {
			moved += 1000000;
			now->tv_sec--;
		} else if (moved >= 1000000) {
			moved -= 1000000;
			now->tv_sec++;
		}
		now->tv_nsec = moved * 1000 + now->tv_nsec % 1000;
	}
	return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;
	int done = clock_gettime(CLOCK_REALTIME, &exact);
	(void) zone;
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return done;
}

time_t time(time_t *to)
{
	struct timespec exact;
	clock_gettime(CLOCK_REALTIME, &exact);
	if (to)
		*to = exact.tv_sec;
	return exact.tv_sec;
}
