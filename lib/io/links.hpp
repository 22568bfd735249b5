// SPDX-License-Identifier: Apache-2.0
//
// Lists of objects that carry their own links: joining and leaving takes no memory and no search. An object can be in
// one list of each kind at a time; `Kind` tells them apart. It leaves with its destructor.
#pragma once

namespace cotun::detail {

template <class Kind>
class link {
public:
    link() noexcept = default;
    link(const link&) = delete;
    link& operator=(const link&) = delete;
    ~link() { leave(); }

    bool linked() const noexcept { return next_ != nullptr; }
    void leave() noexcept {
        if (next_ == nullptr) return;
        previous_->next_ = next_;
        next_->previous_ = previous_;
        next_ = previous_ = nullptr;
    }

private:
    template <class, class>
    friend class link_list;
    link* next_ = nullptr;
    link* previous_ = nullptr;
};

/// Of T, which derives from link<Kind>. First in, first out.
template <class T, class Kind>
class link_list {
public:
    link_list() noexcept { head_.next_ = head_.previous_ = &head_; }
    link_list(const link_list&) = delete;
    link_list& operator=(const link_list&) = delete;
    ~link_list() {
        while (!empty()) head_.next_->leave();
        head_.next_ = head_.previous_ = nullptr;
    }

    bool empty() const noexcept { return head_.next_ == &head_; }
    T& front() noexcept { return static_cast<T&>(*head_.next_); }
    void push_back(T& t) noexcept {
        link<Kind>& l = t;
        l.leave();
        l.previous_ = head_.previous_;
        l.next_ = &head_;
        head_.previous_->next_ = &l;
        head_.previous_ = &l;
    }
    T& pop_front() noexcept {
        T& t = front();
        static_cast<link<Kind>&>(t).leave();
        return t;
    }
    /// Moves all of `other` behind what is here.
    void take(link_list& other) noexcept {
        while (!other.empty()) push_back(other.pop_front());
    }

private:
    link<Kind> head_;
};

} // namespace cotun::detail
