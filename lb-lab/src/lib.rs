// SPDX-License-Identifier: Apache-2.0
//! A small cluster of network namespaces with real traffic.
