/* A CUDA driver whose device is host memory: what the two Python packages are tried against where
   there is no GPU. Work runs at once; captured copies run when their graph is launched. Handles,
   addresses and the current context are checked as strictly as a real driver does, or more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  kOk = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoContext = 201,
  kInvalidDevice = 101,
  kInvalidHandle = 400,
  kNotReady = 600,
  kCaptureUnsupported = 900,
  kTotal = 64 << 20
};

typedef uintptr_t Address;

typedef struct Node {
  struct Node* next;
  char* target;
  const char* source;
  size_t target_pitch, source_pitch, width, height;
} Node;

typedef struct {
  int kind;
  int capturing;
  Node* nodes;
  double time;
} Object;

enum { kStream = 0x57, kEvent = 0xE7, kGraph = 0x6A, kExecutable = 0xEC };

#define MOST 4096
static struct {
  Address start;
  size_t size;
} blocks[MOST];
static int block_count;
static size_t used;
static Object* objects[MOST];
static int object_count;
static char context;
static _Thread_local int depth;

static int find_block(Address address, size_t size) {
  for (int i = 0; i < block_count; ++i) {
    if (blocks[i].start <= address && address + size <= blocks[i].start + blocks[i].size) return i;
  }
  return -1;
}

static Object* find(void* handle, int kind) {
  for (int i = 0; i < object_count; ++i) {
    if (objects[i] == handle && objects[i]->kind == kind) return objects[i];
  }
  return NULL;
}

static Object* make(int kind) {
  Object* object = calloc(1, sizeof(Object));
  object->kind = kind;
  objects[object_count++] = object;
  return object;
}

static int destroy(void* handle, int kind) {
  for (int i = 0; i < object_count; ++i) {
    if (objects[i] == handle && objects[i]->kind == kind) {
      free(objects[i]);
      objects[i] = objects[--object_count];
      return kOk;
    }
  }
  return kInvalidHandle;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

#define NEED_CONTEXT \
  if (depth == 0) return kNoContext

static void copy_rows(const Node* node) {
  for (size_t row = 0; row < node->height; ++row) {
    memcpy(node->target + row * node->target_pitch, node->source + row * node->source_pitch,
           node->width);
  }
}

static int queue(void* handle, Node node) {
  Object* stream = find(handle, kStream);
  if (stream == NULL) return kInvalidHandle;
  if (!stream->capturing) {
    copy_rows(&node);
    return kOk;
  }
  Node* kept = malloc(sizeof(Node));
  *kept = node;
  kept->next = NULL;
  Node** end = &stream->nodes;
  while (*end != NULL) end = &(*end)->next;
  *end = kept;
  return kOk;
}

static int queue_bytes(void* stream, Address target, Address source, size_t size, int from_host,
                       int to_host) {
  NEED_CONTEXT;
  if (!to_host && find_block(target, size) < 0) return kInvalidValue;
  if (!from_host && find_block(source, size) < 0) return kInvalidValue;
  Node node = {NULL, (char*)target, (const char*)source, size, size, size, 1};
  return queue(stream, node);
}

int cuInit(unsigned flags) { return flags == 0 ? kOk : kInvalidValue; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kOk;
}
int cuDeviceGetCount(int* count) {
  *count = 1;
  return kOk;
}
int cuDeviceGet(int* device, int index) {
  *device = 0;
  return index == 0 ? kOk : kInvalidDevice;
}
int cuDeviceGetName(char* text, int size, int device) {
  (void)device;
  snprintf(text, (size_t)size, "host memory");
  return kOk;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 1;
  return kOk;
}
int cuDeviceComputeCapability(int* major, int* minor, int device) {
  (void)device;
  *major = 8;
  *minor = 7;
  return kOk;
}
int cuDevicePrimaryCtxRetain(void** result, int device) {
  (void)device;
  *result = &context;
  return kOk;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  return kOk;
}
int cuCtxPushCurrent_v2(void* pushed) {
  if (pushed != &context) return kNoContext;
  ++depth;
  return kOk;
}
int cuCtxPopCurrent_v2(void** popped) {
  NEED_CONTEXT;
  --depth;
  if (popped != NULL) *popped = &context;
  return kOk;
}
int cuCtxGetDevice(int* device) {
  NEED_CONTEXT;
  *device = 0;
  return kOk;
}
int cuMemGetInfo_v2(size_t* available, size_t* total) {
  NEED_CONTEXT;
  *available = kTotal - used;
  *total = kTotal;
  return kOk;
}
int cuMemAlloc_v2(Address* address, size_t size) {
  NEED_CONTEXT;
  if (size == 0) return kInvalidValue;
  if (used + size > kTotal) return kOutOfMemory;
  void* memory = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(memory, 0xCD, size);
  blocks[block_count].start = *address = (Address)memory;
  blocks[block_count++].size = size;
  used += size;
  return kOk;
}
int cuMemFree_v2(Address address) {
  NEED_CONTEXT;
  const int index = find_block(address, 1);
  if (index < 0 || blocks[index].start != address) return kInvalidValue;
  used -= blocks[index].size;
  blocks[index] = blocks[--block_count];
  free((void*)address);
  return kOk;
}
int cuMemHostAlloc(void** memory, size_t size, unsigned flags) {
  NEED_CONTEXT;
  (void)flags;
  *memory = malloc(size);
  return kOk;
}
int cuMemFreeHost(void* memory) {
  NEED_CONTEXT;
  free(memory);
  return kOk;
}
int cuStreamCreate(void** stream, unsigned flags) {
  NEED_CONTEXT;
  if (flags != 1) return kInvalidValue; /* Only streams that do not wait for the default one. */
  *stream = make(kStream);
  return kOk;
}
int cuStreamDestroy_v2(void* stream) { return destroy(stream, kStream); }
int cuStreamSynchronize(void* handle) {
  NEED_CONTEXT;
  const Object* stream = find(handle, kStream);
  if (stream == NULL) return kInvalidHandle;
  return stream->capturing ? kCaptureUnsupported : kOk;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  NEED_CONTEXT;
  if (flags != 0) return kInvalidValue;
  const int legacy = stream == (void*)1;
  return (legacy || find(stream, kStream)) && find(event, kEvent) ? kOk : kInvalidHandle;
}
int cuEventCreate(void** event, unsigned flags) {
  NEED_CONTEXT;
  if (flags != 0) return kInvalidValue;
  *event = make(kEvent);
  return kOk;
}
int cuEventDestroy_v2(void* event) { return destroy(event, kEvent); }
int cuEventRecord(void* handle, void* stream) {
  NEED_CONTEXT;
  Object* event = find(handle, kEvent);
  if (event == NULL || find(stream, kStream) == NULL) return kInvalidHandle;
  event->time = now();
  return kOk;
}
int cuEventSynchronize(void* event) {
  NEED_CONTEXT;
  return find(event, kEvent) ? kOk : kInvalidHandle;
}
int cuEventElapsedTime(float* milliseconds, void* first, void* second) {
  NEED_CONTEXT;
  const Object* start = find(first, kEvent);
  const Object* end = find(second, kEvent);
  if (start == NULL || end == NULL) return kInvalidHandle;
  if (start->time == 0 || end->time == 0) return kInvalidHandle;
  *milliseconds = (float)(end->time - start->time);
  return kOk;
}
/* The name since CUDA 12.8. */
int cuEventElapsedTime_v2(float* milliseconds, void* first, void* second) {
  return cuEventElapsedTime(milliseconds, first, second);
}
int cuMemcpyHtoDAsync_v2(Address target, const void* source, size_t size, void* stream) {
  return queue_bytes(stream, target, (Address)source, size, 1, 0);
}
int cuMemcpyDtoHAsync_v2(void* target, Address source, size_t size, void* stream) {
  return queue_bytes(stream, (Address)target, source, size, 0, 1);
}
int cuMemcpyDtoDAsync_v2(Address target, Address source, size_t size, void* stream) {
  return queue_bytes(stream, target, source, size, 0, 0);
}

/* CUDA_MEMCPY2D: the source's fields, then the target's. */
typedef struct {
  size_t x, y;
  unsigned kind;
  const void* host;
  Address device;
  void* array;
  size_t pitch;
} Side;
typedef struct {
  Side source, target;
  size_t width, height;
} Copy2D;

int cuMemcpy2DAsync_v2(const Copy2D* what, void* stream) {
  NEED_CONTEXT;
  const Side* from = &what->source;
  const Side* to = &what->target;
  if (from->kind != 2 || to->kind != 2 || from->x || from->y || to->x || to->y) {
    return kInvalidValue;
  }
  if (what->width > from->pitch || what->width > to->pitch) return kInvalidValue;
  const size_t rows = what->height;
  if (rows == 0 || find_block(from->device, (rows - 1) * from->pitch + what->width) < 0 ||
      find_block(to->device, (rows - 1) * to->pitch + what->width) < 0) {
    return kInvalidValue;
  }
  Node node = {NULL,      (char*)to->device, (const char*)from->device,
               to->pitch, from->pitch,       what->width,
               rows};
  return queue(stream, node);
}

int cuStreamBeginCapture_v2(void* handle, int mode) {
  NEED_CONTEXT;
  Object* stream = find(handle, kStream);
  if (stream == NULL || mode != 1 || stream->capturing) return kInvalidValue;
  stream->capturing = 1;
  stream->nodes = NULL;
  return kOk;
}
int cuStreamEndCapture(void* handle, void** graph) {
  NEED_CONTEXT;
  Object* stream = find(handle, kStream);
  if (stream == NULL || !stream->capturing) return kInvalidValue;
  stream->capturing = 0;
  Object* made = make(kGraph);
  made->nodes = stream->nodes;
  *graph = made;
  return kOk;
}
int cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long flags) {
  NEED_CONTEXT;
  const Object* graph = find(handle, kGraph);
  if (graph == NULL || flags != 0) return kInvalidValue;
  Object* made = make(kExecutable);
  made->nodes = graph->nodes;
  *executable = made;
  return kOk;
}
int cuGraphLaunch(void* handle, void* stream) {
  NEED_CONTEXT;
  const Object* executable = find(handle, kExecutable);
  if (executable == NULL || find(stream, kStream) == NULL) return kInvalidHandle;
  for (const Node* node = executable->nodes; node != NULL; node = node->next) copy_rows(node);
  return kOk;
}
int cuGraphDestroy(void* graph) { return destroy(graph, kGraph); }
int cuGraphExecDestroy(void* executable) { return destroy(executable, kExecutable); }

int cuGetErrorString(int error, const char** text) {
  *text = error == kOutOfMemory     ? "out of memory"
          : error == kInvalidHandle ? "invalid resource handle"
          : error == kNoContext     ? "invalid device context"
                                    : "invalid argument";
  return kOk;
}

/* What the test asks for: how much is still held. */
int standin_held(void) { return block_count + object_count; }

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags,
                        int* status) {
  (void)version;
  (void)flags;
  char text[128];
  *function = NULL;
  for (int suffix = 3; suffix >= 1 && *function == NULL; --suffix) {
    snprintf(text, sizeof(text), suffix > 1 ? "%s_v%d" : "%s", name, suffix);
    *function = dlsym(RTLD_DEFAULT, text);
  }
  if (status != NULL) *status = *function ? 0 : 1;
  return kOk;
}
int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
