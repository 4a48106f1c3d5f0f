// Threads that stay: starting one anew costs 40 to 100 us each time, waking one some 20, and one that still looks for
// work less than 4. The process has one crew. A call hands it pieces of work, takes pieces itself, and waits for the
// last; a call that finds the crew at work for another thread of the program does all of its own, so that threads of
// the program that call at the same time neither wait for one another nor start more threads than there are cores.
#ifndef TR_CREW_H
#define TR_CREW_H

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tr {

class Crew {
    using Call = void (*)(const void *work, ptrdiff_t piece);
    static constexpr int looks = 400;  // between two calls of one training step: some 0.2 ms

    std::atomic<bool> busy_{false};  // whether it works for a call
    std::mutex sleep_;
    std::condition_variable wake_, done_;
    int asleep_ = 0;
    ptrdiff_t hired_ = 0;
    // Which call this is, in the upper half, and how many of its pieces nobody has taken yet, in the lower one: a piece
    // is taken by counting down both at once, so nobody takes one of a call that has ended since.
    std::atomic<uint64_t> open_{0};
    std::atomic<ptrdiff_t> unfinished_{0}, pieces_{0};
    std::atomic<Call> call_{nullptr};
    std::atomic<const void *> work_{nullptr};

    static bool is_open(uint64_t word) { return uint32_t(word) != 0; }

    // Look for a while whether `there` holds, letting others have the core in between.
    template <class Holds> static bool look(const Holds &there) {
        for (int n = 0; n < looks; ++n) {
            for (int k = 0; k < 16; ++k) {
                if (there()) return true;
#if defined(__x86_64__)
                _mm_pause();
#endif
            }
            std::this_thread::yield();
        }
        return there();
    }

    // Do pieces until none is left; those who come late find none, and touch nothing of the call.
    void help() {
        uint64_t word = open_.load();
        while (is_open(word)) {
            const Call call = call_.load();
            const void *work = work_.load();
            const ptrdiff_t pieces = pieces_.load();
            if (!open_.compare_exchange_weak(word, word - 1)) continue;
            call(work, pieces - ptrdiff_t(uint32_t(word)));
            if (unfinished_.fetch_sub(1) == 1) {
                std::lock_guard<std::mutex> lock(sleep_);
                done_.notify_all();
            }
            word = open_.load();
        }
    }

    void stay() {
        const auto there = [this] { return is_open(open_.load()); };
        for (;;) {
            if (!look(there)) {
                std::unique_lock<std::mutex> lock(sleep_);
                ++asleep_;
                wake_.wait(lock, there);
                --asleep_;
            }
            help();
        }
    }

    void hire(ptrdiff_t n) {
        for (; hired_ < n; ++hired_) {
            try {
                std::thread([this] { stay(); }).detach();
            } catch (const std::system_error &) {  // no more threads to be had: fewer will do
                return;
            }
        }
    }

    static std::atomic<Crew *> &current() {
        static std::atomic<Crew *> only{nullptr};
        return only;
    }

  public:
    // The process's crew, never destroyed: threads may look for work until the process ends.
    static Crew &of_process() {
        Crew *crew = current().load();
        if (crew) return *crew;
        crew = new Crew;
        Crew *other = nullptr;
        if (!current().compare_exchange_strong(other, crew)) {
            delete crew;
            return *other;
        }
#if defined(__unix__) || defined(__APPLE__)
        // A forked child has none of the threads: it begins with a new crew.
        static const int registered = pthread_atfork(nullptr, nullptr, [] { current() = nullptr; });
        (void)registered;
#endif
        return *crew;
    }

    // work(0) .. work(n - 1), by at most n threads, this one among them. work must not throw.
    template <class Work> void run(ptrdiff_t n, const Work &work) {
        if (n < 2 || busy_.exchange(true)) {
            for (ptrdiff_t k = 0; k < n; ++k) work(k);
            return;
        }
        hire(n - 1);
        call_ = [](const void *w, ptrdiff_t k) { (*static_cast<const Work *>(w))(k); };
        work_ = &work;
        pieces_ = unfinished_ = n;
        bool some_sleep;
        {
            std::lock_guard<std::mutex> lock(sleep_);
            open_ = ((open_.load() >> 32) + 1) << 32 | uint64_t(n);
            some_sleep = asleep_ > 0;
        }
        if (some_sleep) wake_.notify_all();
        help();
        const auto finished = [this] { return unfinished_.load() == 0; };
        if (!look(finished)) {
            std::unique_lock<std::mutex> lock(sleep_);
            done_.wait(lock, finished);
        }
        busy_ = false;
    }
};

// work(0) .. work(n - 1), at the same time where there are threads for it.
template <class Work> void in_parallel(ptrdiff_t n, const Work &work) { Crew::of_process().run(n, work); }

}  // namespace tr
#endif
