"""The dataset doctor's parts of pages: conversion, report, repairs, what is trained, split."""
