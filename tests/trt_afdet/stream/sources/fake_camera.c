// A camera for tests, put between a program and the C library with LD_PRELOAD: it answers the calls
// on the file named by FAKE_CAMERA as a V4L2 driver does. It is written against the kernel's own
// header, so structures and numbers are the kernel's.
//
// MJPG: the file FAKE_JPEG. YUYV: grey, each frame a little lighter.
// FAKE_MODE: "freeze" or "unplug" after ten frames, "busy", "metadata" (a device without pictures).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { SLOT = 1 << 21, MOST = 4, LIMIT = 10 };
static int device = -1, memory = -1, fps = 30, streaming, count, order[MOST], waiting, sequence;
static unsigned char* slots;
static uint64_t ticks;
static struct v4l2_pix_format now = {.width = 640, .height = 480, .pixelformat = V4L2_PIX_FMT_YUYV};
static const uint32_t kFormats[] = {V4L2_PIX_FMT_YUYV, V4L2_PIX_FMT_MJPEG, V4L2_PIX_FMT_H264};
static const uint32_t kSizes[][2] = {{640, 480}, {1280, 720}};

static int mode(const char* name) {
  const char* is = getenv("FAKE_MODE");
  return is && !strcmp(is, name);
}

static int fail(int error) {
  errno = error;
  return -1;
}

static int open_it(const char* path, int* fd) {
  const char* camera = getenv("FAKE_CAMERA");
  if (!camera || strcmp(path, camera)) return 0;
  device = *fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  memory = memfd_create("frames", MFD_CLOEXEC);
  if (ftruncate(memory, MOST * SLOT)) return 0;
  void* (*map)(void*, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
  slots = map(NULL, MOST * SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  streaming = waiting = sequence = 0;
  return 1;
}

#define OPEN(name)                                                              \
  int name(const char* path, int flags, ...) {                                  \
    int fd;                                                                     \
    if (open_it(path, &fd)) return fd;                                          \
    va_list rest;                                                               \
    va_start(rest, flags);                                                      \
    const int bits = va_arg(rest, int);                                         \
    va_end(rest);                                                               \
    return ((int (*)(const char*, int, int))dlsym(RTLD_NEXT, #name))(path, flags, bits); \
  }
OPEN(open)
OPEN(open64)

#define MMAP(name, offset_t)                                                            \
  void* name(void* where, size_t size, int access, int flags, int fd, offset_t offset) { \
    void* (*real)(void*, size_t, int, int, int, offset_t) = dlsym(RTLD_NEXT, #name);    \
    return real(where, size, access, flags, fd == device && fd >= 0 ? memory : fd, offset); \
  }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

#define FSTAT(name, kind)                                                             \
  int name(int fd, struct kind* out) {                                                \
    int (*real)(int, struct kind*) = dlsym(RTLD_NEXT, #name);                         \
    const int answer = real(fd, out);                                                 \
    if (!answer && fd == device && fd >= 0) out->st_mode = S_IFCHR | 0600;            \
    return answer;                                                                    \
  }
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

static void tick(int rate) {
  int (*real)(int, int, const struct itimerspec*, struct itimerspec*) = timerfd_settime;
  struct itimerspec every = {0};
  if (rate) every.it_interval.tv_nsec = every.it_value.tv_nsec = 1000000000L / rate;
  real(device, 0, &every, NULL);
}

static int fill(struct v4l2_buffer* buffer) {
  unsigned char* slot = slots + (size_t)buffer->index * SLOT;
  if (now.pixelformat == V4L2_PIX_FMT_MJPEG) {
    int (*real)(const char*, int, ...) = dlsym(RTLD_NEXT, "open");
    const int file = real(getenv("FAKE_JPEG"), O_RDONLY);
    buffer->bytesused = (uint32_t)read(file, slot, SLOT);
    close(file);
  } else {
    for (size_t i = 0; i < now.sizeimage; i += 2) {
      slot[i] = (unsigned char)(16 + sequence);
      slot[i + 1] = 128;
    }
    buffer->bytesused = now.sizeimage;
  }
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  buffer->timestamp.tv_sec = time.tv_sec;
  buffer->timestamp.tv_usec = time.tv_nsec / 1000;
  buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  buffer->sequence = (uint32_t)sequence++;
  return 0;
}

static int take(struct v4l2_buffer* buffer) {
  uint64_t more = 0;
  if (sequence >= LIMIT && mode("unplug")) return fail(ENODEV);
  if (sequence >= LIMIT && mode("freeze")) tick(0);
  if (read(device, &more, sizeof more) == sizeof more) ticks += more;
  if (ticks > (uint64_t)waiting) ticks = (uint64_t)waiting;
  if (!ticks || !streaming) return fail(EAGAIN);
  ticks--;
  buffer->index = (uint32_t)order[0];
  memmove(order, order + 1, sizeof order - sizeof *order);
  waiting--;
  return fill(buffer);
}

static int answer(unsigned long request, void* argument) {
  switch (request) {
    case VIDIOC_QUERYCAP: {
      struct v4l2_capability* it = argument;
      memset(it, 0, sizeof *it);
      strcpy((char*)it->card, "Fake Camera");
      strcpy((char*)it->bus_info, "usb-0000:00:14.0-1");
      it->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_META_CAPTURE |
                         V4L2_CAP_DEVICE_CAPS;
      it->device_caps = (mode("metadata") ? V4L2_CAP_META_CAPTURE : V4L2_CAP_VIDEO_CAPTURE) |
                        V4L2_CAP_STREAMING;
      return 0;
    }
    case VIDIOC_ENUM_FMT: {
      struct v4l2_fmtdesc* it = argument;
      if (it->index >= 3 || it->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
      it->pixelformat = kFormats[it->index];
      return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
      struct v4l2_frmsizeenum* it = argument;
      if (it->pixel_format == V4L2_PIX_FMT_H264) {
        if (it->index) return fail(EINVAL);
        it->type = V4L2_FRMSIZE_TYPE_STEPWISE;
        it->stepwise = (struct v4l2_frmsize_stepwise){320, 2048, 16, 240, 1536, 16};
        return 0;
      }
      if (it->index >= 2) return fail(EINVAL);
      it->type = V4L2_FRMSIZE_TYPE_DISCRETE;
      it->discrete = (struct v4l2_frmsize_discrete){kSizes[it->index][0], kSizes[it->index][1]};
      return 0;
    }
    case VIDIOC_ENUM_FRAMEINTERVALS: {
      struct v4l2_frmivalenum* it = argument;
      // Uncompressed pictures of the larger size are slow, as on USB 2.
      const uint32_t slow = it->pixel_format == V4L2_PIX_FMT_YUYV && it->width > 640;
      if (it->index >= 1) return fail(EINVAL);
      it->type = V4L2_FRMIVAL_TYPE_DISCRETE;
      it->discrete = (struct v4l2_fract){1, slow ? 10 : 30};
      return 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT: {
      struct v4l2_format* it = argument;
      if (mode("busy") && request == VIDIOC_S_FMT) return fail(EBUSY);
      if (request == VIDIOC_S_FMT) {
        now.pixelformat = it->fmt.pix.pixelformat;
        const int large = it->fmt.pix.width > 960;
        now.width = kSizes[large][0];
        now.height = kSizes[large][1];
      }
      // Rows with something behind them.
      now.bytesperline = now.pixelformat == V4L2_PIX_FMT_YUYV ? now.width * 2 + 64 : 0;
      now.sizeimage = now.bytesperline ? now.bytesperline * now.height : SLOT;
      if (now.sizeimage > SLOT) now.sizeimage = SLOT;
      it->fmt.pix = now;
      return 0;
    }
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
      struct v4l2_streamparm* it = argument;
      struct v4l2_captureparm* capture = &it->parm.capture;
      if (request == VIDIOC_S_PARM)
        fps = (int)(capture->timeperframe.denominator / capture->timeperframe.numerator);
      capture->capability = V4L2_CAP_TIMEPERFRAME;
      capture->timeperframe = (struct v4l2_fract){1, (uint32_t)fps};
      return 0;
    }
    case VIDIOC_REQBUFS:
      ((struct v4l2_requestbuffers*)argument)->count = count = 3;
      return 0;
    case VIDIOC_QUERYBUF: {
      struct v4l2_buffer* it = argument;
      it->length = SLOT;
      it->m.offset = it->index * SLOT;
      return 0;
    }
    case VIDIOC_QBUF:
      if (waiting >= count) return fail(EIO);
      order[waiting++] = (int)((struct v4l2_buffer*)argument)->index;
      return 0;
    case VIDIOC_DQBUF:
      return take(argument);
    case VIDIOC_STREAMON:
      streaming = 1;
      tick(fps);
      return 0;
    case VIDIOC_STREAMOFF:
      streaming = 0;
      return 0;
    default:
      return fail(ENOTTY);
  }
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  if (fd == device && fd >= 0) return answer(request & 0xffffffffUL, argument);
  return ((int (*)(int, unsigned long, void*))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
}
