; startup.c as LLVM IR, made by clang 14: python -m jit.startup.generate
source_filename = "startup.c"
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-f80:128-n8:16:32:64-S128"
target triple = "x86_64-unknown-linux-gnu"

module asm ".text"
module asm ".globl program_start"
module asm "program_start:"
module asm "  endbr64"
module asm "  pushfq"
module asm "  pushq %rdi"
module asm "  leaq 16(%rsp), %rdi"
module asm "  jmp .Lsave"
module asm ".globl library_start"
module asm "library_start:"
module asm "  endbr64"
module asm "  pushfq"
module asm "  pushq %rdi"
module asm "  xorl %edi, %edi"
module asm ".Lsave:"
module asm "  pushq %rax"
module asm "  pushq %rbx"
module asm "  pushq %rcx"
module asm "  pushq %rdx"
module asm "  pushq %rsi"
module asm "  pushq %rbp"
module asm "  pushq %r8"
module asm "  pushq %r9"
module asm "  pushq %r10"
module asm "  pushq %r11"
module asm "  pushq %r12"
module asm "  pushq %r13"
module asm "  pushq %r14"
module asm "  pushq %r15"
module asm "  cld"
module asm "  movq %rsp, %rbp"
module asm "  andq $-16, %rsp"
module asm "  call probeloom_startup"
module asm "  movq %rbp, %rsp"
module asm "  popq %r15"
module asm "  popq %r14"
module asm "  popq %r13"
module asm "  popq %r12"
module asm "  popq %r11"
module asm "  popq %r10"
module asm "  popq %r9"
module asm "  popq %r8"
module asm "  popq %rbp"
module asm "  popq %rsi"
module asm "  popq %rdx"
module asm "  popq %rcx"
module asm "  popq %rbx"
module asm "  popq %rax"
module asm "  popq %rdi"
module asm "  popfq"
module asm "  jmp original_entry"
module asm ".globl no_original_entry"
module asm "no_original_entry:"
module asm "  ret"

%struct.header = type { i64, i32, i32, [4 x i64], [2 x i64], i64, i64, i64, i64, i64, i64, i64, i64, [256 x i8] }
%struct.text = type { i8*, i64, i32 }
%struct.scratch = type { [4352 x i8], [4352 x i8], [4352 x i8], [4096 x i8], [65536 x i8] }
%struct.stat = type { i64, i64, i64, i32, i32, i32, i32, i64, i64, [11 x i64] }

@probeloom_data = external hidden global %struct.header, align 8
@.str = private unnamed_addr constant [16 x i8] c"PROBELOOM_DATA=\00", align 1
@.str.1 = private unnamed_addr constant [18 x i8] c"/proc/self/ns/pid\00", align 1
@.str.2 = private unnamed_addr constant [19 x i8] c"/proc/self/environ\00", align 1
@__const.open_data.millisecond = private unnamed_addr constant [2 x i64] [i64 0, i64 1000000], align 16
@.str.3 = private unnamed_addr constant [12 x i8] c".probeloom-\00", align 1
@.str.4 = private unnamed_addr constant [16 x i8] c"/proc/self/auxv\00", align 1

; Function Attrs: noredzone nounwind optsize
define hidden void @probeloom_startup(i64* noundef %0) local_unnamed_addr #0 {
  %2 = alloca %struct.text, align 8
  %3 = alloca i32, align 4
  %4 = icmp eq i64* %0, null
  br i1 %4, label %60, label %5

5:                                                ; preds = %1
  %6 = getelementptr inbounds i64, i64* %0, i64 1
  %7 = load i64, i64* %0, align 8
  %8 = getelementptr inbounds i64, i64* %6, i64 %7
  %9 = getelementptr inbounds i64, i64* %8, i64 1
  %10 = load i64, i64* %9, align 8
  %11 = icmp eq i64 %10, 0
  br i1 %11, label %53, label %12

12:                                               ; preds = %5, %35
  %13 = phi i64 [ %36, %35 ], [ %10, %5 ]
  %14 = phi i64* [ %37, %35 ], [ %9, %5 ]
  %15 = phi i8* [ %38, %35 ], [ null, %5 ]
  %16 = icmp eq i8* %15, null
  br i1 %16, label %17, label %30

17:                                               ; preds = %12
  %18 = inttoptr i64 %13 to i8*
  %19 = getelementptr i8, i8* %18, i64 15
  br label %20

20:                                               ; preds = %24, %17
  %21 = phi i8* [ %18, %17 ], [ %27, %24 ]
  %22 = phi i8* [ getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), %17 ], [ %26, %24 ]
  %23 = icmp eq i8* %22, getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 15)
  br i1 %23, label %30, label %24

24:                                               ; preds = %20
  %25 = load i8, i8* %22, align 1
  %26 = getelementptr inbounds i8, i8* %22, i64 1
  %27 = getelementptr inbounds i8, i8* %21, i64 1
  %28 = load i8, i8* %21, align 1
  %29 = icmp eq i8 %25, %28
  br i1 %29, label %20, label %39, !llvm.loop !3

30:                                               ; preds = %20, %12
  %31 = phi i8* [ %15, %12 ], [ %19, %20 ]
  %32 = getelementptr inbounds i64, i64* %14, i64 1
  %33 = load i64, i64* %32, align 8
  %34 = icmp eq i64 %33, 0
  br i1 %34, label %43, label %35

35:                                               ; preds = %30, %39
  %36 = phi i64 [ %33, %30 ], [ %41, %39 ]
  %37 = phi i64* [ %32, %30 ], [ %40, %39 ]
  %38 = phi i8* [ %31, %30 ], [ null, %39 ]
  br label %12, !llvm.loop !5

39:                                               ; preds = %24
  %40 = getelementptr inbounds i64, i64* %14, i64 1
  %41 = load i64, i64* %40, align 8
  %42 = icmp eq i64 %41, 0
  br i1 %42, label %53, label %35

43:                                               ; preds = %30
  %44 = icmp eq i8* %31, null
  br i1 %44, label %53, label %45

45:                                               ; preds = %43, %45
  %46 = phi i64* [ %47, %45 ], [ %14, %43 ]
  %47 = getelementptr inbounds i64, i64* %46, i64 2
  %48 = load i64, i64* %47, align 8
  switch i64 %48, label %45 [
    i64 0, label %53
    i64 23, label %49
  ], !llvm.loop !6

49:                                               ; preds = %45
  %50 = getelementptr inbounds i64, i64* %46, i64 3
  %51 = load i64, i64* %50, align 8
  %52 = icmp eq i64 %51, 0
  br i1 %52, label %56, label %53

53:                                               ; preds = %39, %45, %49, %43, %5
  %54 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11), align 8
  %55 = icmp eq i64 %54, 0
  br i1 %55, label %302, label %58

56:                                               ; preds = %49
  %57 = ptrtoint i64* %0 to i64
  br label %60

58:                                               ; preds = %53
  %59 = ptrtoint i64* %0 to i64
  tail call fastcc void @own(i64 noundef %59, i32 noundef 0) #4
  br label %302

60:                                               ; preds = %56, %1
  %61 = phi i64 [ %57, %56 ], [ 0, %1 ]
  %62 = phi i8* [ %31, %56 ], [ null, %1 ]
  %63 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 0, i64 82688, i64 3, i64 34, i64 -1, i64 0) #5
  %64 = icmp ult i64 %63, -4095
  %65 = inttoptr i64 %63 to i8*
  %66 = select i1 %64, i8* %65, i8* null
  %67 = bitcast i8* %66 to %struct.scratch*
  %68 = icmp eq i8* %66, null
  br i1 %68, label %302, label %69

69:                                               ; preds = %60
  br i1 %4, label %70, label %129

70:                                               ; preds = %69, %70
  %71 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 ptrtoint ([19 x i8]* @.str.2 to i64), i64 526592, i64 0, i64 0, i64 0, i64 0) #5
  %72 = icmp eq i64 %71, -4
  br i1 %72, label %70, label %73, !llvm.loop !8

73:                                               ; preds = %70
  %74 = icmp ult i64 %71, -4095
  br i1 %74, label %75, label %286

75:                                               ; preds = %73
  %76 = getelementptr inbounds i8, i8* %66, i64 13056
  %77 = ptrtoint i8* %76 to i64
  br label %78

78:                                               ; preds = %114, %75
  %79 = phi i8* [ getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), %75 ], [ %117, %114 ]
  %80 = phi i32 [ 0, %75 ], [ %116, %114 ]
  %81 = phi i64 [ 0, %75 ], [ %115, %114 ]
  br label %82

82:                                               ; preds = %82, %78
  %83 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 0, i64 %71, i64 %77, i64 4096, i64 0, i64 0, i64 0) #5
  %84 = icmp eq i64 %83, -4
  br i1 %84, label %82, label %85, !llvm.loop !9

85:                                               ; preds = %82
  %86 = icmp sgt i64 %83, 0
  br i1 %86, label %87, label %120

87:                                               ; preds = %85, %114
  %88 = phi i64 [ %118, %114 ], [ 0, %85 ]
  %89 = phi i8* [ %117, %114 ], [ %79, %85 ]
  %90 = phi i32 [ %116, %114 ], [ %80, %85 ]
  %91 = phi i64 [ %115, %114 ], [ %81, %85 ]
  %92 = getelementptr inbounds %struct.scratch, %struct.scratch* %67, i64 0, i32 3, i64 %88
  %93 = load i8, i8* %92, align 1
  %94 = icmp eq i8* %89, null
  br i1 %94, label %95, label %98

95:                                               ; preds = %87
  %96 = icmp eq i8 %93, 0
  %97 = select i1 %96, i8* getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), i8* null
  br label %114

98:                                               ; preds = %87
  %99 = load i8, i8* %89, align 1
  %100 = icmp eq i8 %99, 0
  %101 = icmp eq i8 %93, 0
  br i1 %100, label %102, label %109

102:                                              ; preds = %98
  br i1 %101, label %120, label %103

103:                                              ; preds = %102
  %104 = add i64 %91, 1
  %105 = icmp ugt i64 %104, 4351
  br i1 %105, label %114, label %106

106:                                              ; preds = %103
  %107 = getelementptr inbounds %struct.scratch, %struct.scratch* %67, i64 0, i32 0, i64 %91
  store i8 %93, i8* %107, align 1
  %108 = getelementptr inbounds %struct.scratch, %struct.scratch* %67, i64 0, i32 0, i64 %104
  store i8 0, i8* %108, align 1
  br label %114

109:                                              ; preds = %98
  br i1 %101, label %114, label %110

110:                                              ; preds = %109
  %111 = icmp eq i8 %99, %93
  %112 = getelementptr inbounds i8, i8* %89, i64 1
  %113 = select i1 %111, i8* %112, i8* null
  br label %114

114:                                              ; preds = %110, %109, %106, %103, %95
  %115 = phi i64 [ %91, %109 ], [ %91, %110 ], [ %104, %106 ], [ %91, %103 ], [ %91, %95 ]
  %116 = phi i32 [ %90, %109 ], [ %90, %110 ], [ %90, %106 ], [ 1, %103 ], [ %90, %95 ]
  %117 = phi i8* [ getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), %109 ], [ %113, %110 ], [ %89, %106 ], [ %89, %103 ], [ %97, %95 ]
  %118 = add nuw nsw i64 %88, 1
  %119 = icmp eq i64 %118, %83
  br i1 %119, label %78, label %87, !llvm.loop !10

120:                                              ; preds = %85, %102
  %121 = phi i32 [ %90, %102 ], [ %80, %85 ]
  %122 = xor i1 %86, true
  %123 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %71, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  %124 = icmp ne i32 %121, 0
  %125 = select i1 %122, i1 true, i1 %124
  br i1 %125, label %286, label %126

126:                                              ; preds = %120
  %127 = tail call fastcc i64 @told_by_kernel(%struct.scratch* noundef nonnull %67, i64 noundef 23, i64 noundef 1) #6
  %128 = icmp eq i64 %127, 0
  br i1 %128, label %129, label %286

129:                                              ; preds = %126, %69
  %130 = phi i8* [ %62, %69 ], [ %66, %126 ]
  %131 = icmp eq i8* %130, null
  br i1 %131, label %286, label %132

132:                                              ; preds = %129
  %133 = load i8, i8* %130, align 1
  %134 = icmp eq i8 %133, 0
  br i1 %134, label %286, label %135

135:                                              ; preds = %132
  %136 = bitcast %struct.text* %2 to i8*
  call void @llvm.lifetime.start.p0i8(i64 24, i8* nonnull %136) #5
  %137 = getelementptr inbounds %struct.text, %struct.text* %2, i64 0, i32 0
  %138 = getelementptr inbounds i8, i8* %66, i64 4352
  store i8* %138, i8** %137, align 8
  %139 = getelementptr inbounds %struct.text, %struct.text* %2, i64 0, i32 1
  store i64 0, i64* %139, align 8
  %140 = getelementptr inbounds %struct.text, %struct.text* %2, i64 0, i32 2
  store i32 0, i32* %140, align 8
  %141 = bitcast i32* %3 to i8*
  call void @llvm.lifetime.start.p0i8(i64 4, i8* nonnull %141) #5
  store i32 3, i32* %3, align 4
  br label %142

142:                                              ; preds = %191, %135
  %143 = phi i8* [ %130, %135 ], [ %193, %191 ]
  %144 = load i8, i8* %143, align 1
  switch i8 %144, label %173 [
    i8 0, label %194
    i8 37, label %145
  ]

145:                                              ; preds = %142
  %146 = getelementptr inbounds i8, i8* %143, i64 1
  %147 = load i8, i8* %146, align 1
  switch i8 %147, label %173 [
    i8 112, label %148
    i8 109, label %150
  ]

148:                                              ; preds = %145
  %149 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 39, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  call fastcc void @put_number(%struct.text* noundef nonnull %2, i64 noundef %149) #6
  br label %191

150:                                              ; preds = %145
  %151 = load i8, i8* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 13, i64 0), align 8
  %152 = icmp eq i8 %151, 0
  br i1 %152, label %191, label %153

153:                                              ; preds = %150
  %154 = load i64, i64* %139, align 8
  %155 = load i32, i32* %140, align 8
  %156 = load i8*, i8** %137, align 8
  br label %157

157:                                              ; preds = %153, %168
  %158 = phi i32 [ %169, %168 ], [ %155, %153 ]
  %159 = phi i64 [ %170, %168 ], [ %154, %153 ]
  %160 = phi i8 [ %171, %168 ], [ %151, %153 ]
  %161 = phi i8* [ %162, %168 ], [ getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 13, i64 0), %153 ]
  %162 = getelementptr inbounds i8, i8* %161, i64 1
  %163 = add i64 %159, 1
  %164 = icmp ugt i64 %163, 4351
  br i1 %164, label %168, label %165

165:                                              ; preds = %157
  %166 = getelementptr inbounds i8, i8* %156, i64 %159
  store i8 %160, i8* %166, align 1
  %167 = getelementptr inbounds i8, i8* %156, i64 %163
  store i8 0, i8* %167, align 1
  br label %168

168:                                              ; preds = %157, %165
  %169 = phi i32 [ %158, %165 ], [ 1, %157 ]
  %170 = phi i64 [ %163, %165 ], [ %159, %157 ]
  %171 = load i8, i8* %162, align 1
  %172 = icmp eq i8 %171, 0
  br i1 %172, label %190, label %157, !llvm.loop !11

173:                                              ; preds = %145, %142
  %174 = load i64, i64* %139, align 8
  %175 = add i64 %174, 1
  %176 = icmp ugt i64 %175, 4351
  br i1 %176, label %177, label %178

177:                                              ; preds = %173
  store i32 1, i32* %140, align 8
  br label %182

178:                                              ; preds = %173
  %179 = load i8*, i8** %137, align 8
  store i64 %175, i64* %139, align 8
  %180 = getelementptr inbounds i8, i8* %179, i64 %174
  store i8 %144, i8* %180, align 1
  %181 = getelementptr inbounds i8, i8* %179, i64 %175
  store i8 0, i8* %181, align 1
  br label %182

182:                                              ; preds = %178, %177
  %183 = load i8, i8* %143, align 1
  %184 = icmp eq i8 %183, 37
  br i1 %184, label %185, label %191

185:                                              ; preds = %182
  %186 = getelementptr inbounds i8, i8* %143, i64 1
  %187 = load i8, i8* %186, align 1
  %188 = icmp eq i8 %187, 37
  %189 = select i1 %188, i8* %186, i8* %143
  br label %191

190:                                              ; preds = %168
  store i64 %170, i64* %139, align 8
  store i32 %169, i32* %140, align 8
  br label %191

191:                                              ; preds = %190, %185, %182, %150, %148
  %192 = phi i8* [ %146, %148 ], [ %143, %182 ], [ %189, %185 ], [ %146, %150 ], [ %146, %190 ]
  %193 = getelementptr inbounds i8, i8* %192, i64 1
  br label %142, !llvm.loop !12

194:                                              ; preds = %142
  %195 = load i32, i32* %140, align 8
  %196 = icmp eq i32 %195, 0
  br i1 %196, label %197, label %284

197:                                              ; preds = %194
  %198 = call fastcc i64 @open_data(%struct.scratch* noundef nonnull %67, i32* noundef nonnull %3) #4
  %199 = load i32, i32* %3, align 4
  %200 = icmp eq i32 %199, 2
  %201 = icmp ugt i64 %198, -4096
  %202 = select i1 %201, i1 %200, i1 false
  br i1 %202, label %203, label %241

203:                                              ; preds = %197
  %204 = load i64, i64* %139, align 8
  %205 = add i64 %204, 1
  %206 = icmp ugt i64 %205, 4351
  br i1 %206, label %207, label %208

207:                                              ; preds = %203
  store i32 1, i32* %140, align 8
  br label %212

208:                                              ; preds = %203
  %209 = load i8*, i8** %137, align 8
  %210 = getelementptr inbounds i8, i8* %209, i64 %204
  store i8 46, i8* %210, align 1
  %211 = getelementptr inbounds i8, i8* %209, i64 %205
  store i8 0, i8* %211, align 1
  br label %212

212:                                              ; preds = %207, %208
  %213 = phi i32 [ 1, %207 ], [ 0, %208 ]
  %214 = phi i64 [ %204, %207 ], [ %205, %208 ]
  %215 = load i8, i8* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 13, i64 0), align 8
  %216 = icmp eq i8 %215, 0
  br i1 %216, label %236, label %217

217:                                              ; preds = %212
  %218 = load i8*, i8** %137, align 8
  br label %219

219:                                              ; preds = %217, %230
  %220 = phi i32 [ %231, %230 ], [ %213, %217 ]
  %221 = phi i64 [ %232, %230 ], [ %214, %217 ]
  %222 = phi i8 [ %233, %230 ], [ %215, %217 ]
  %223 = phi i8* [ %224, %230 ], [ getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 13, i64 0), %217 ]
  %224 = getelementptr inbounds i8, i8* %223, i64 1
  %225 = add i64 %221, 1
  %226 = icmp ugt i64 %225, 4351
  br i1 %226, label %230, label %227

227:                                              ; preds = %219
  %228 = getelementptr inbounds i8, i8* %218, i64 %221
  store i8 %222, i8* %228, align 1
  %229 = getelementptr inbounds i8, i8* %218, i64 %225
  store i8 0, i8* %229, align 1
  br label %230

230:                                              ; preds = %219, %227
  %231 = phi i32 [ %220, %227 ], [ 1, %219 ]
  %232 = phi i64 [ %225, %227 ], [ %221, %219 ]
  %233 = load i8, i8* %224, align 1
  %234 = icmp eq i8 %233, 0
  br i1 %234, label %235, label %219, !llvm.loop !11

235:                                              ; preds = %230
  store i64 %232, i64* %139, align 8
  br label %236

236:                                              ; preds = %235, %212
  %237 = phi i32 [ %231, %235 ], [ %213, %212 ]
  %238 = icmp eq i32 %237, 0
  br i1 %238, label %239, label %284

239:                                              ; preds = %236
  %240 = call fastcc i64 @open_data(%struct.scratch* noundef nonnull %67, i32* noundef nonnull %3) #4
  br label %241

241:                                              ; preds = %239, %197
  %242 = phi i64 [ %198, %197 ], [ %240, %239 ]
  %243 = icmp ult i64 %242, -4095
  br i1 %243, label %244, label %284

244:                                              ; preds = %241
  %245 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 9), align 8
  %246 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 0, i64 %245, i64 3, i64 1, i64 %242, i64 0) #5
  %247 = add i64 %246, 4095
  %248 = icmp ult i64 %247, 4096
  br i1 %248, label %281, label %249

249:                                              ; preds = %244
  %250 = inttoptr i64 %246 to i64*
  %251 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 6), align 8
  %252 = getelementptr inbounds i8, i8* bitcast (%struct.header* @probeloom_data to i8*), i64 %251
  %253 = bitcast i8* %252 to i64*
  %254 = lshr i64 %251, 3
  %255 = getelementptr inbounds i64, i64* %250, i64 %254
  %256 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 7), align 8
  %257 = icmp eq i64 %256, 0
  br i1 %257, label %275, label %258

258:                                              ; preds = %249, %271
  %259 = phi i64 [ %272, %271 ], [ 0, %249 ]
  %260 = getelementptr inbounds i64, i64* %253, i64 %259
  %261 = load i64, i64* %260, align 8
  %262 = icmp eq i64 %261, 0
  br i1 %262, label %271, label %263

263:                                              ; preds = %258
  %264 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 8), align 8
  %265 = icmp ult i64 %259, %264
  %266 = getelementptr inbounds i64, i64* %255, i64 %259
  br i1 %265, label %267, label %269

267:                                              ; preds = %263
  %268 = atomicrmw add i64* %266, i64 %261 monotonic, align 8
  br label %271

269:                                              ; preds = %263
  %270 = cmpxchg i64* %266, i64 0, i64 %261 monotonic monotonic, align 8
  br label %271

271:                                              ; preds = %269, %267, %258
  %272 = add nuw i64 %259, 1
  %273 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 7), align 8
  %274 = icmp ult i64 %272, %273
  br i1 %274, label %258, label %275, !llvm.loop !13

275:                                              ; preds = %271, %249
  %276 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 ptrtoint (%struct.header* @probeloom_data to i64), i64 %245, i64 3, i64 17, i64 %242, i64 0) #5
  %277 = add i64 %276, -1
  %278 = icmp ult i64 %277, -4096
  %279 = zext i1 %278 to i32
  %280 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 11, i64 %246, i64 %245, i64 0, i64 0, i64 0, i64 0) #5
  br label %281

281:                                              ; preds = %244, %275
  %282 = phi i32 [ %279, %275 ], [ 0, %244 ]
  %283 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %242, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %284

284:                                              ; preds = %194, %236, %281, %241
  %285 = phi i32 [ 0, %241 ], [ %282, %281 ], [ 0, %236 ], [ 0, %194 ]
  call void @llvm.lifetime.end.p0i8(i64 4, i8* nonnull %141) #5
  call void @llvm.lifetime.end.p0i8(i64 24, i8* nonnull %136) #5
  br label %286

286:                                              ; preds = %126, %120, %73, %284, %132, %129
  %287 = phi i32 [ %285, %284 ], [ 0, %132 ], [ 0, %129 ], [ 0, %73 ], [ 0, %120 ], [ 0, %126 ]
  %288 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11), align 8
  %289 = icmp ne i64 %288, 0
  %290 = select i1 %4, i1 %289, i1 false
  br i1 %290, label %291, label %294

291:                                              ; preds = %286
  %292 = tail call fastcc i64 @told_by_kernel(%struct.scratch* noundef nonnull %67, i64 noundef 25, i64 noundef 0) #4
  %293 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11), align 8
  br label %294

294:                                              ; preds = %291, %286
  %295 = phi i64 [ %293, %291 ], [ %288, %286 ]
  %296 = phi i64 [ %292, %291 ], [ %61, %286 ]
  %297 = icmp eq i64 %295, 0
  br i1 %297, label %299, label %298

298:                                              ; preds = %294
  tail call fastcc void @own(i64 noundef %296, i32 noundef %287) #4
  br label %299

299:                                              ; preds = %298, %294
  %300 = ptrtoint i8* %66 to i64
  %301 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 11, i64 %300, i64 82688, i64 0, i64 0, i64 0, i64 0) #5
  br label %302

302:                                              ; preds = %299, %60, %53, %58
  ret void
}

; Function Attrs: argmemonly mustprogress nofree nosync nounwind willreturn
declare void @llvm.lifetime.start.p0i8(i64 immarg, i8* nocapture) #1

; Function Attrs: noredzone nounwind optsize
define internal fastcc void @own(i64 noundef %0, i32 noundef %1) unnamed_addr #0 {
  %3 = alloca %struct.stat, align 8
  %4 = alloca [2 x i64], align 16
  %5 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11), align 8
  %6 = getelementptr inbounds i8, i8* bitcast (%struct.header* @probeloom_data to i8*), i64 %5
  %7 = bitcast i8* %6 to i64*
  %8 = bitcast [2 x i64]* %4 to i8*
  call void @llvm.lifetime.start.p0i8(i64 16, i8* nonnull %8) #5
  %9 = icmp ult i64 %0, 140668768878592
  br i1 %9, label %66, label %10

10:                                               ; preds = %2
  %11 = ptrtoint [2 x i64]* %4 to i64
  %12 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 97, i64 3, i64 %11, i64 0, i64 0, i64 0, i64 0) #5
  %13 = icmp ult i64 %12, -4095
  br i1 %13, label %14, label %66

14:                                               ; preds = %10
  %15 = getelementptr inbounds [2 x i64], [2 x i64]* %4, i64 0, i64 0
  %16 = load i64, i64* %15, align 16
  %17 = icmp ult i64 %16, 8388608
  %18 = lshr i64 %16, 2
  %19 = mul i64 %18, -3
  %20 = select i1 %17, i64 %19, i64 9223372036848484352
  %21 = icmp eq i32 %1, 0
  br i1 %21, label %63, label %22

22:                                               ; preds = %14
  %23 = bitcast %struct.stat* %3 to i8*
  call void @llvm.lifetime.start.p0i8(i64 144, i8* nonnull %23) #5
  %24 = ptrtoint %struct.stat* %3 to i64
  %25 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 4, i64 ptrtoint ([18 x i8]* @.str.1 to i64), i64 %24, i64 0, i64 0, i64 0, i64 0) #5
  %26 = icmp ult i64 %25, -4095
  br i1 %26, label %27, label %44

27:                                               ; preds = %22
  %28 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 39, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  %29 = load atomic i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 12) monotonic, align 8
  %30 = and i64 %29, 4194303
  %31 = icmp eq i64 %29, 0
  br i1 %31, label %45, label %32

32:                                               ; preds = %27
  %33 = lshr i64 %29, 32
  %34 = trunc i64 %33 to i32
  %35 = getelementptr inbounds %struct.stat, %struct.stat* %3, i64 0, i32 1
  %36 = load i64, i64* %35, align 8
  %37 = trunc i64 %36 to i32
  %38 = icmp eq i32 %34, %37
  br i1 %38, label %39, label %44

39:                                               ; preds = %32
  %40 = icmp eq i64 %30, %28
  br i1 %40, label %45, label %41

41:                                               ; preds = %39
  %42 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 62, i64 %30, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  %43 = icmp eq i64 %42, -3
  br i1 %43, label %45, label %44

44:                                               ; preds = %22, %41, %32
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %23) #5
  br label %66

45:                                               ; preds = %27, %39, %41
  %46 = getelementptr inbounds %struct.stat, %struct.stat* %3, i64 0, i32 1
  %47 = load i64, i64* %46, align 8
  %48 = shl i64 %47, 32
  %49 = add i64 %29, 4194304
  %50 = and i64 %49, 4290772992
  %51 = or i64 %48, %50
  %52 = or i64 %51, %28
  %53 = cmpxchg i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 12), i64 %29, i64 %52 monotonic monotonic, align 8
  %54 = extractvalue { i64, i1 } %53, 1
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %23) #5
  br i1 %54, label %55, label %66

55:                                               ; preds = %45
  %56 = ptrtoint i8* %6 to i64
  %57 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 %56, i64 4096, i64 3, i64 50, i64 -1, i64 0) #5
  %58 = add i64 %57, 4095
  %59 = icmp ult i64 %58, 4096
  br i1 %59, label %66, label %60

60:                                               ; preds = %55
  %61 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 28, i64 %56, i64 4096, i64 18, i64 0, i64 0, i64 0) #5
  %62 = icmp ult i64 %61, -4095
  br i1 %62, label %63, label %66

63:                                               ; preds = %60, %14
  %64 = add i64 %20, %0
  %65 = or i64 %64, -9223372036854775808
  store i64 %65, i64* %7, align 8
  br label %66

66:                                               ; preds = %44, %45, %55, %60, %2, %10, %63
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %8) #5
  ret void
}

; Function Attrs: noredzone nounwind optsize
define internal fastcc i64 @open_data(%struct.scratch* noundef %0, i32* nocapture noundef writeonly %1) unnamed_addr #0 {
  %3 = alloca %struct.stat, align 8
  %4 = alloca %struct.stat, align 8
  %5 = alloca [2 x i64], align 16
  %6 = bitcast %struct.stat* %4 to i8*
  %7 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 0
  %8 = ptrtoint i8* %7 to i64
  %9 = ptrtoint %struct.stat* %4 to i64
  %10 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 0
  %11 = bitcast i8* %10 to %struct.header*
  %12 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 3
  %13 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 8
  %14 = ptrtoint i8* %10 to i64
  %15 = bitcast i8* %10 to i64*
  %16 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 48
  %17 = bitcast i8* %16 to i64*
  %18 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 56
  %19 = bitcast i8* %18 to i64*
  %20 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 8
  %21 = bitcast i8* %20 to i32*
  %22 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 16
  %23 = bitcast i8* %22 to i64*
  %24 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 64
  %25 = bitcast i8* %24 to i64*
  %26 = bitcast %struct.stat* %3 to i8*
  %27 = ptrtoint %struct.stat* %3 to i64
  %28 = getelementptr inbounds %struct.stat, %struct.stat* %3, i64 0, i32 0
  %29 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 0
  %30 = getelementptr inbounds %struct.stat, %struct.stat* %3, i64 0, i32 1
  %31 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 1
  %32 = bitcast [2 x i64]* %5 to i8*
  %33 = ptrtoint [2 x i64]* %5 to i64
  %34 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 24
  %35 = bitcast i8* %34 to i64*
  br label %36

36:                                               ; preds = %2, %139
  %37 = phi i32 [ 0, %2 ], [ %140, %139 ]
  call void @llvm.lifetime.start.p0i8(i64 144, i8* nonnull %6) #5
  br label %38

38:                                               ; preds = %38, %36
  %39 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 %8, i64 526594, i64 0, i64 0, i64 0, i64 0) #5
  %40 = icmp eq i64 %39, -4
  br i1 %40, label %38, label %41, !llvm.loop !8

41:                                               ; preds = %38
  store i32 3, i32* %1, align 4
  %42 = icmp eq i64 %39, -2
  br i1 %42, label %43, label %46

43:                                               ; preds = %41
  %44 = call fastcc i64 @create(%struct.scratch* noundef %0, i32 noundef 0, i32 noundef 0) #4
  %45 = icmp eq i64 %44, -17
  br i1 %45, label %139, label %137

46:                                               ; preds = %41
  %47 = icmp ult i64 %39, -4095
  br i1 %47, label %48, label %137

48:                                               ; preds = %46
  %49 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 5, i64 %39, i64 %9, i64 0, i64 0, i64 0, i64 0) #5
  %50 = icmp ult i64 %49, -4095
  br i1 %50, label %53, label %51

51:                                               ; preds = %48
  %52 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %137

53:                                               ; preds = %48
  %54 = load i32, i32* %12, align 8
  %55 = and i32 %54, 61440
  %56 = icmp eq i32 %55, 32768
  br i1 %56, label %57, label %105

57:                                               ; preds = %53
  %58 = load i64, i64* %13, align 8
  %59 = icmp eq i64 %58, 0
  br i1 %59, label %108, label %60

60:                                               ; preds = %57
  %61 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 17, i64 %39, i64 %14, i64 384, i64 0, i64 0, i64 0) #5
  %62 = icmp eq i64 %61, 384
  br i1 %62, label %63, label %105

63:                                               ; preds = %60
  %64 = load i64, i64* %15, align 8
  %65 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 0), align 8
  %66 = icmp eq i64 %64, %65
  br i1 %66, label %67, label %105

67:                                               ; preds = %63
  %68 = load i64, i64* %17, align 8
  %69 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 4, i64 0), align 8
  %70 = icmp eq i64 %68, %69
  br i1 %70, label %71, label %105

71:                                               ; preds = %67
  %72 = load i64, i64* %19, align 8
  %73 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 4, i64 1), align 8
  %74 = icmp eq i64 %72, %73
  br i1 %74, label %75, label %105, !llvm.loop !14

75:                                               ; preds = %71
  %76 = load i32, i32* %21, align 8
  %77 = load i32, i32* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 1), align 8
  %78 = icmp eq i32 %76, %77
  br i1 %78, label %79, label %108

79:                                               ; preds = %75
  %80 = load i64, i64* %23, align 8
  %81 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 3, i64 0), align 8
  %82 = icmp eq i64 %80, %81
  br i1 %82, label %83, label %108

83:                                               ; preds = %79
  %84 = load i64, i64* %35, align 8
  %85 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 3, i64 1), align 8
  %86 = icmp eq i64 %84, %85
  br i1 %86, label %87, label %98, !llvm.loop !14

87:                                               ; preds = %83, %91
  %88 = phi i64 [ %97, %91 ], [ 2, %83 ]
  %89 = phi i64 [ %88, %91 ], [ 1, %83 ]
  %90 = icmp eq i64 %88, 4
  br i1 %90, label %101, label %91, !llvm.loop !14

91:                                               ; preds = %87
  %92 = getelementptr inbounds %struct.header, %struct.header* %11, i64 0, i32 3, i64 %88
  %93 = load i64, i64* %92, align 8
  %94 = getelementptr inbounds %struct.header, %struct.header* @probeloom_data, i64 0, i32 3, i64 %88
  %95 = load i64, i64* %94, align 8
  %96 = icmp eq i64 %93, %95
  %97 = add nuw nsw i64 %88, 1
  br i1 %96, label %87, label %98, !llvm.loop !14

98:                                               ; preds = %91, %83
  %99 = phi i64 [ 0, %83 ], [ %89, %91 ]
  %100 = icmp ult i64 %99, 3
  br i1 %100, label %108, label %101

101:                                              ; preds = %87, %98
  %102 = load i64, i64* %25, align 8
  %103 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 5), align 8
  %104 = icmp eq i64 %102, %103
  br i1 %104, label %109, label %108

105:                                              ; preds = %53, %63, %60, %67, %71
  %106 = phi i32 [ 2, %71 ], [ 2, %67 ], [ 3, %60 ], [ 3, %63 ], [ 3, %53 ]
  store i32 %106, i32* %1, align 4
  %107 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %137

108:                                              ; preds = %57, %101, %98, %75, %79
  store i32 1, i32* %1, align 4
  br label %113

109:                                              ; preds = %101
  %110 = load i64, i64* %13, align 8
  %111 = icmp ne i64 %110, %102
  %112 = zext i1 %111 to i32
  store i32 %112, i32* %1, align 4
  br i1 %111, label %113, label %137

113:                                              ; preds = %109, %108
  call void @llvm.lifetime.start.p0i8(i64 144, i8* nonnull %26) #5
  %114 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 73, i64 %39, i64 6, i64 0, i64 0, i64 0, i64 0) #5
  %115 = icmp eq i64 %114, -11
  br i1 %115, label %116, label %118

116:                                              ; preds = %113
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %26) #5
  %117 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %135

118:                                              ; preds = %113
  %119 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 4, i64 %8, i64 %27, i64 0, i64 0, i64 0, i64 0) #5
  %120 = icmp ult i64 %119, -4095
  br i1 %120, label %121, label %129

121:                                              ; preds = %118
  %122 = load i64, i64* %28, align 8
  %123 = load i64, i64* %29, align 8
  %124 = icmp eq i64 %122, %123
  br i1 %124, label %125, label %129

125:                                              ; preds = %121
  %126 = load i64, i64* %30, align 8
  %127 = load i64, i64* %31, align 8
  %128 = icmp eq i64 %126, %127
  br i1 %128, label %131, label %129

129:                                              ; preds = %125, %121, %118
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %26) #5
  %130 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %139

131:                                              ; preds = %125
  %132 = load i32, i32* %12, align 8
  %133 = call fastcc i64 @create(%struct.scratch* noundef %0, i32 noundef 1, i32 noundef %132) #6
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %26) #5
  %134 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  switch i64 %133, label %137 [
    i64 -11, label %135
    i64 -17, label %139
  ]

135:                                              ; preds = %116, %131
  call void @llvm.lifetime.start.p0i8(i64 16, i8* nonnull %32) #5
  call void @llvm.memcpy.p0i8.p0i8.i64(i8* noundef nonnull align 16 dereferenceable(16) %32, i8* noundef nonnull align 16 dereferenceable(16) bitcast ([2 x i64]* @__const.open_data.millisecond to i8*), i64 16, i1 false)
  %136 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 35, i64 %33, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %32) #5
  br label %139

137:                                              ; preds = %109, %43, %46, %131, %51, %105
  %138 = phi i64 [ -1, %105 ], [ -1, %51 ], [ %133, %131 ], [ %39, %109 ], [ %39, %46 ], [ %44, %43 ]
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %6) #5
  br label %142

139:                                              ; preds = %43, %135, %131, %129
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %6) #5
  %140 = add nuw nsw i32 %37, 1
  %141 = icmp eq i32 %140, 2000
  br i1 %141, label %142, label %36, !llvm.loop !15

142:                                              ; preds = %139, %137
  %143 = phi i64 [ %138, %137 ], [ -1, %139 ]
  ret i64 %143
}

; Function Attrs: argmemonly mustprogress nofree nosync nounwind willreturn
declare void @llvm.lifetime.end.p0i8(i64 immarg, i8* nocapture) #1

; Function Attrs: noredzone nounwind optsize
define internal fastcc i64 @told_by_kernel(%struct.scratch* noundef %0, i64 noundef %1, i64 noundef %2) unnamed_addr #0 {
  br label %4

4:                                                ; preds = %4, %3
  %5 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 ptrtoint ([16 x i8]* @.str.4 to i64), i64 526592, i64 0, i64 0, i64 0, i64 0) #5
  %6 = icmp eq i64 %5, -4
  br i1 %6, label %4, label %7, !llvm.loop !8

7:                                                ; preds = %4
  %8 = icmp ult i64 %5, -4095
  br i1 %8, label %9, label %33

9:                                                ; preds = %7
  %10 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 0
  %11 = ptrtoint i8* %10 to i64
  br label %12

12:                                               ; preds = %12, %9
  %13 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 0, i64 %5, i64 %11, i64 4096, i64 0, i64 0, i64 0) #5
  %14 = icmp eq i64 %13, -4
  br i1 %14, label %12, label %15, !llvm.loop !9

15:                                               ; preds = %12
  %16 = bitcast i8* %10 to i64*
  %17 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %5, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %18

18:                                               ; preds = %27, %15
  %19 = phi i64 [ 0, %15 ], [ %20, %27 ]
  %20 = add nuw nsw i64 %19, 2
  %21 = shl nsw i64 %20, 3
  %22 = icmp sgt i64 %21, %13
  br i1 %22, label %33, label %23

23:                                               ; preds = %18
  %24 = getelementptr inbounds i64, i64* %16, i64 %19
  %25 = load i64, i64* %24, align 8
  %26 = icmp eq i64 %25, 0
  br i1 %26, label %33, label %27

27:                                               ; preds = %23
  %28 = icmp eq i64 %25, %1
  br i1 %28, label %29, label %18, !llvm.loop !16

29:                                               ; preds = %27
  %30 = or i64 %19, 1
  %31 = getelementptr inbounds i64, i64* %16, i64 %30
  %32 = load i64, i64* %31, align 8
  br label %33

33:                                               ; preds = %18, %23, %29, %7
  %34 = phi i64 [ %2, %7 ], [ %32, %29 ], [ %2, %23 ], [ %2, %18 ]
  ret i64 %34
}

; Function Attrs: nofree norecurse noredzone nosync nounwind optsize
define internal fastcc void @put_number(%struct.text* nocapture noundef %0, i64 noundef %1) unnamed_addr #2 {
  %3 = icmp ugt i64 %1, 9
  br i1 %3, label %11, label %6

4:                                                ; preds = %11
  %5 = icmp eq i64 %13, 0
  br i1 %5, label %35, label %6

6:                                                ; preds = %2, %4
  %7 = phi i64 [ %13, %4 ], [ 1, %2 ]
  %8 = getelementptr inbounds %struct.text, %struct.text* %0, i64 0, i32 1
  %9 = getelementptr inbounds %struct.text, %struct.text* %0, i64 0, i32 0
  %10 = getelementptr inbounds %struct.text, %struct.text* %0, i64 0, i32 2
  br label %16

11:                                               ; preds = %2, %11
  %12 = phi i64 [ %13, %11 ], [ 1, %2 ]
  %13 = mul i64 %12, 10
  %14 = udiv i64 %1, %13
  %15 = icmp ugt i64 %14, 9
  br i1 %15, label %11, label %4, !llvm.loop !17

16:                                               ; preds = %6, %32
  %17 = phi i64 [ %7, %6 ], [ %33, %32 ]
  %18 = load i64, i64* %8, align 8
  %19 = add i64 %18, 1
  %20 = icmp ugt i64 %19, 4351
  br i1 %20, label %21, label %22

21:                                               ; preds = %16
  store i32 1, i32* %10, align 8
  br label %32

22:                                               ; preds = %16
  %23 = udiv i64 %1, %17
  %24 = urem i64 %23, 10
  %25 = trunc i64 %24 to i8
  %26 = or i8 %25, 48
  %27 = load i8*, i8** %9, align 8
  store i64 %19, i64* %8, align 8
  %28 = getelementptr inbounds i8, i8* %27, i64 %18
  store i8 %26, i8* %28, align 1
  %29 = load i8*, i8** %9, align 8
  %30 = load i64, i64* %8, align 8
  %31 = getelementptr inbounds i8, i8* %29, i64 %30
  store i8 0, i8* %31, align 1
  br label %32

32:                                               ; preds = %21, %22
  %33 = udiv i64 %17, 10
  %34 = icmp ult i64 %17, 10
  br i1 %34, label %35, label %16, !llvm.loop !18

35:                                               ; preds = %32, %4
  ret void
}

; Function Attrs: noredzone nounwind optsize
define internal fastcc i64 @create(%struct.scratch* noundef %0, i32 noundef %1, i32 noundef %2) unnamed_addr #0 {
  %4 = alloca [2 x i64], align 16
  %5 = alloca %struct.text, align 8
  %6 = bitcast %struct.text* %5 to i8*
  call void @llvm.lifetime.start.p0i8(i64 24, i8* nonnull %6) #5
  %7 = getelementptr inbounds %struct.text, %struct.text* %5, i64 0, i32 0
  %8 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 0
  store i8* %8, i8** %7, align 8
  %9 = getelementptr inbounds %struct.text, %struct.text* %5, i64 0, i32 1
  %10 = getelementptr inbounds %struct.text, %struct.text* %5, i64 0, i32 2
  br label %11

11:                                               ; preds = %24, %3
  %12 = phi i64 [ %25, %24 ], [ 0, %3 ]
  br label %13

13:                                               ; preds = %11, %17
  %14 = phi i64 [ %18, %17 ], [ %12, %11 ]
  %15 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 %14
  %16 = load i8, i8* %15, align 1
  switch i8 %16, label %17 [
    i8 0, label %19
    i8 47, label %24
  ]

17:                                               ; preds = %13
  %18 = add i64 %14, 1
  br label %13, !llvm.loop !19

19:                                               ; preds = %13
  %20 = icmp eq i64 %12, 0
  br i1 %20, label %21, label %48

21:                                               ; preds = %59, %19
  %22 = phi i32 [ 0, %19 ], [ %60, %59 ]
  %23 = phi i64 [ 0, %19 ], [ %61, %59 ]
  br label %26

24:                                               ; preds = %13
  %25 = add i64 %14, 1
  br label %11, !llvm.loop !19

26:                                               ; preds = %21, %37
  %27 = phi i32 [ %38, %37 ], [ %22, %21 ]
  %28 = phi i64 [ %39, %37 ], [ %23, %21 ]
  %29 = phi i8 [ %40, %37 ], [ 46, %21 ]
  %30 = phi i8* [ %31, %37 ], [ getelementptr inbounds ([12 x i8], [12 x i8]* @.str.3, i64 0, i64 0), %21 ]
  %31 = getelementptr inbounds i8, i8* %30, i64 1
  %32 = add i64 %28, 1
  %33 = icmp ugt i64 %32, 4351
  br i1 %33, label %37, label %34

34:                                               ; preds = %26
  %35 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %28
  store i8 %29, i8* %35, align 1
  %36 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %32
  store i8 0, i8* %36, align 1
  br label %37

37:                                               ; preds = %26, %34
  %38 = phi i32 [ %27, %34 ], [ 1, %26 ]
  %39 = phi i64 [ %32, %34 ], [ %28, %26 ]
  %40 = load i8, i8* %31, align 1
  %41 = icmp eq i8* %31, getelementptr inbounds ([12 x i8], [12 x i8]* @.str.3, i64 0, i64 11)
  br i1 %41, label %42, label %26, !llvm.loop !11

42:                                               ; preds = %37
  store i64 %39, i64* %9, align 8
  store i32 %38, i32* %10, align 8
  %43 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 39, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  call fastcc void @put_number(%struct.text* noundef nonnull %5, i64 noundef %43) #4
  %44 = load i64, i64* %9, align 8
  %45 = add i64 %44, 1
  %46 = icmp ugt i64 %45, 4351
  %47 = ptrtoint i8* %8 to i64
  br label %64

48:                                               ; preds = %19, %59
  %49 = phi i64 [ %62, %59 ], [ 0, %19 ]
  %50 = phi i64 [ %61, %59 ], [ 0, %19 ]
  %51 = phi i32 [ %60, %59 ], [ 0, %19 ]
  %52 = add i64 %50, 1
  %53 = icmp ugt i64 %52, 4351
  br i1 %53, label %59, label %54

54:                                               ; preds = %48
  %55 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 %49
  %56 = load i8, i8* %55, align 1
  %57 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %50
  store i8 %56, i8* %57, align 1
  %58 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %52
  store i8 0, i8* %58, align 1
  br label %59

59:                                               ; preds = %48, %54
  %60 = phi i32 [ %51, %54 ], [ 1, %48 ]
  %61 = phi i64 [ %52, %54 ], [ %50, %48 ]
  %62 = add nuw i64 %49, 1
  %63 = icmp eq i64 %62, %12
  br i1 %63, label %21, label %48, !llvm.loop !20

64:                                               ; preds = %42, %77
  %65 = phi i64 [ 0, %42 ], [ %78, %77 ]
  store i64 %44, i64* %9, align 8
  br i1 %46, label %66, label %67

66:                                               ; preds = %64
  store i32 1, i32* %10, align 8
  br label %71

67:                                               ; preds = %64
  %68 = load i8*, i8** %7, align 8
  store i64 %45, i64* %9, align 8
  %69 = getelementptr inbounds i8, i8* %68, i64 %44
  store i8 45, i8* %69, align 1
  %70 = getelementptr inbounds i8, i8* %68, i64 %45
  store i8 0, i8* %70, align 1
  br label %71

71:                                               ; preds = %66, %67
  call fastcc void @put_number(%struct.text* noundef nonnull %5, i64 noundef %65) #4
  %72 = load i32, i32* %10, align 8
  %73 = icmp eq i32 %72, 0
  br i1 %73, label %74, label %189

74:                                               ; preds = %71, %74
  %75 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 %47, i64 526786, i64 438, i64 0, i64 0, i64 0) #5
  %76 = icmp eq i64 %75, -4
  br i1 %76, label %74, label %77, !llvm.loop !8

77:                                               ; preds = %74
  %78 = add nuw nsw i64 %65, 1
  %79 = icmp ult i64 %65, 99
  %80 = icmp eq i64 %75, -17
  %81 = select i1 %79, i1 %80, i1 false
  br i1 %81, label %64, label %82, !llvm.loop !21

82:                                               ; preds = %77
  %83 = icmp ult i64 %75, -4095
  br i1 %83, label %84, label %189

84:                                               ; preds = %82
  %85 = bitcast [2 x i64]* %4 to i8*
  call void @llvm.lifetime.start.p0i8(i64 16, i8* nonnull %85) #5
  %86 = ptrtoint [2 x i64]* %4 to i64
  %87 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 97, i64 1, i64 %86, i64 0, i64 0, i64 0, i64 0) #5
  %88 = icmp ult i64 %87, -4095
  br i1 %88, label %89, label %161

89:                                               ; preds = %84
  %90 = getelementptr inbounds [2 x i64], [2 x i64]* %4, i64 0, i64 0
  %91 = load i64, i64* %90, align 16
  %92 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 5), align 8
  %93 = icmp ult i64 %91, %92
  br i1 %93, label %161, label %94

94:                                               ; preds = %89, %105
  %95 = phi i8* [ %107, %105 ], [ bitcast (%struct.header* @probeloom_data to i8*), %89 ]
  %96 = phi i64 [ %106, %105 ], [ 384, %89 ]
  %97 = ptrtoint i8* %95 to i64
  %98 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 1, i64 %75, i64 %97, i64 %96, i64 0, i64 0, i64 0) #5
  %99 = icmp eq i64 %98, -4
  br i1 %99, label %105, label %100, !llvm.loop !22

100:                                              ; preds = %94
  %101 = icmp slt i64 %98, 1
  br i1 %101, label %161, label %102

102:                                              ; preds = %100
  %103 = getelementptr inbounds i8, i8* %95, i64 %98
  %104 = sub i64 %96, %98
  br label %105

105:                                              ; preds = %102, %94
  %106 = phi i64 [ %104, %102 ], [ %96, %94 ]
  %107 = phi i8* [ %103, %102 ], [ %95, %94 ]
  %108 = icmp eq i64 %106, 0
  br i1 %108, label %109, label %94

109:                                              ; preds = %105
  %110 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 9), align 8
  %111 = add i64 %110, -384
  %112 = icmp eq i64 %111, 0
  br i1 %112, label %139, label %113

113:                                              ; preds = %109
  %114 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 4, i64 0
  br label %115

115:                                              ; preds = %134, %113
  %116 = phi i64 [ %111, %113 ], [ %135, %134 ]
  %117 = icmp ult i64 %116, 65536
  %118 = select i1 %117, i64 %116, i64 65536
  br label %119

119:                                              ; preds = %130, %115
  %120 = phi i8* [ %132, %130 ], [ %114, %115 ]
  %121 = phi i64 [ %131, %130 ], [ %118, %115 ]
  %122 = ptrtoint i8* %120 to i64
  %123 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 1, i64 %75, i64 %122, i64 %121, i64 0, i64 0, i64 0) #5
  %124 = icmp eq i64 %123, -4
  br i1 %124, label %130, label %125, !llvm.loop !22

125:                                              ; preds = %119
  %126 = icmp slt i64 %123, 1
  br i1 %126, label %161, label %127

127:                                              ; preds = %125
  %128 = getelementptr inbounds i8, i8* %120, i64 %123
  %129 = sub i64 %121, %123
  br label %130

130:                                              ; preds = %127, %119
  %131 = phi i64 [ %129, %127 ], [ %121, %119 ]
  %132 = phi i8* [ %128, %127 ], [ %120, %119 ]
  %133 = icmp eq i64 %131, 0
  br i1 %133, label %134, label %119

134:                                              ; preds = %130
  %135 = sub i64 %116, %118
  %136 = icmp eq i64 %135, 0
  br i1 %136, label %137, label %115

137:                                              ; preds = %134
  %138 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 9), align 8
  br label %139

139:                                              ; preds = %137, %109
  %140 = phi i64 [ %138, %137 ], [ 384, %109 ]
  %141 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 5), align 8
  %142 = sub i64 %141, %140
  %143 = icmp eq i64 %142, 0
  br i1 %143, label %162, label %144

144:                                              ; preds = %139
  %145 = getelementptr inbounds i8, i8* bitcast (%struct.header* @probeloom_data to i8*), i64 %140
  br label %146

146:                                              ; preds = %157, %144
  %147 = phi i8* [ %159, %157 ], [ %145, %144 ]
  %148 = phi i64 [ %158, %157 ], [ %142, %144 ]
  %149 = ptrtoint i8* %147 to i64
  %150 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 1, i64 %75, i64 %149, i64 %148, i64 0, i64 0, i64 0) #5
  %151 = icmp eq i64 %150, -4
  br i1 %151, label %157, label %152, !llvm.loop !22

152:                                              ; preds = %146
  %153 = icmp slt i64 %150, 1
  br i1 %153, label %161, label %154

154:                                              ; preds = %152
  %155 = getelementptr inbounds i8, i8* %147, i64 %150
  %156 = sub i64 %148, %150
  br label %157

157:                                              ; preds = %154, %146
  %158 = phi i64 [ %156, %154 ], [ %148, %146 ]
  %159 = phi i8* [ %155, %154 ], [ %147, %146 ]
  %160 = icmp eq i64 %158, 0
  br i1 %160, label %162, label %146

161:                                              ; preds = %100, %125, %152, %84, %89
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %85) #5
  br label %185

162:                                              ; preds = %157, %139
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %85) #5
  %163 = icmp eq i32 %1, 0
  br i1 %163, label %173, label %164

164:                                              ; preds = %162
  %165 = and i32 %2, 511
  %166 = zext i32 %165 to i64
  %167 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 91, i64 %75, i64 %166, i64 0, i64 0, i64 0, i64 0) #5
  %168 = icmp eq i64 %167, 0
  br i1 %168, label %169, label %185

169:                                              ; preds = %164
  %170 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 0
  %171 = ptrtoint i8* %170 to i64
  %172 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 82, i64 %47, i64 %171, i64 0, i64 0, i64 0, i64 0) #5
  br label %182

173:                                              ; preds = %162
  %174 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 0
  %175 = ptrtoint i8* %174 to i64
  %176 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 316, i64 -100, i64 %47, i64 -100, i64 %175, i64 1, i64 0) #5
  switch i64 %176, label %182 [
    i64 -22, label %177
    i64 -38, label %177
  ]

177:                                              ; preds = %173, %173
  %178 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 86, i64 %47, i64 %175, i64 0, i64 0, i64 0, i64 0) #5
  %179 = icmp eq i64 %178, 0
  br i1 %179, label %180, label %185

180:                                              ; preds = %177
  %181 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 87, i64 %47, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %189

182:                                              ; preds = %173, %169
  %183 = phi i64 [ %172, %169 ], [ %176, %173 ]
  %184 = icmp eq i64 %183, 0
  br i1 %184, label %189, label %185

185:                                              ; preds = %177, %161, %164, %182
  %186 = phi i64 [ %183, %182 ], [ %178, %177 ], [ -1, %161 ], [ %167, %164 ]
  %187 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %75, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  %188 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 87, i64 %47, i64 0, i64 0, i64 0, i64 0, i64 0) #5
  br label %189

189:                                              ; preds = %71, %180, %185, %182, %82
  %190 = phi i64 [ %75, %82 ], [ %186, %185 ], [ %75, %182 ], [ %75, %180 ], [ -1, %71 ]
  call void @llvm.lifetime.end.p0i8(i64 24, i8* nonnull %6) #5
  ret i64 %190
}

; Function Attrs: argmemonly mustprogress nofree nounwind willreturn
declare void @llvm.memcpy.p0i8.p0i8.i64(i8* noalias nocapture writeonly, i8* noalias nocapture readonly, i64, i1 immarg) #3

attributes #0 = { noredzone nounwind optsize "frame-pointer"="none" "min-legal-vector-width"="0" "no-builtins" "no-jump-tables"="true" "no-trapping-math"="true" "stack-protector-buffer-size"="8" "target-cpu"="x86-64" "target-features"="-sse,-sse2,-mmx,-x87" "tune-cpu"="generic" }
attributes #1 = { argmemonly mustprogress nofree nosync nounwind willreturn }
attributes #2 = { nofree norecurse noredzone nosync nounwind optsize "frame-pointer"="none" "min-legal-vector-width"="0" "no-builtins" "no-jump-tables"="true" "no-trapping-math"="true" "stack-protector-buffer-size"="8" "target-cpu"="x86-64" "target-features"="-sse,-sse2,-mmx,-x87" "tune-cpu"="generic" }
attributes #3 = { argmemonly mustprogress nofree nounwind willreturn }
attributes #4 = { nobuiltin noredzone optsize "no-builtins" }
attributes #5 = { nounwind }
attributes #6 = { nobuiltin noredzone nounwind optsize "no-builtins" }

!llvm.module.flags = !{!0, !1}

!0 = !{i32 1, !"wchar_size", i32 4}
!1 = !{i32 7, !"PIC Level", i32 2}
!3 = distinct !{!3, !4}
!4 = !{!"llvm.loop.mustprogress"}
!5 = distinct !{!5, !4}
!6 = distinct !{!6, !4}
!8 = distinct !{!8, !4}
!9 = distinct !{!9, !4}
!10 = distinct !{!10, !4}
!11 = distinct !{!11, !4}
!12 = distinct !{!12, !4}
!13 = distinct !{!13, !4}
!14 = distinct !{!14, !4}
!15 = distinct !{!15, !4}
!16 = distinct !{!16, !4}
!17 = distinct !{!17, !4}
!18 = distinct !{!18, !4}
!19 = distinct !{!19, !4}
!20 = distinct !{!20, !4}
!21 = distinct !{!21, !4}
!22 = distinct !{!22, !4}
