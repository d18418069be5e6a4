#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>

// Boost.Asio as this folder uses it: every object lives on the one thread that runs its io_context, so no strands, and
// the executor is that of io_context, not the type-erased default. Not for headers that other folders include.

namespace optserve {

namespace asio = boost::asio;

using Clock = std::chrono::steady_clock;
using IoExecutor = asio::io_context::executor_type;
using TcpSocket = asio::basic_stream_socket<asio::ip::tcp, IoExecutor>;
using TcpAcceptor = asio::basic_socket_acceptor<asio::ip::tcp, IoExecutor>;
using IoTimer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, IoExecutor>;
using UseAwaitable = asio::use_awaitable_t<IoExecutor>;

// A coroutine on an I/O thread. In them a co_await is the whole of an initialisation, an assignment or a statement: as
// part of a condition or of && and ||, GCC 12 resumes the wrong place.
template <typename T>
using Task = asio::awaitable<T, IoExecutor>;

}  // namespace optserve
